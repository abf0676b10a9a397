//! A peer that sends what is no BGP, in any amount: bounded memory, and a counter.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, setrlimit};
use observer_tests::{
    agent::{Agent, Options},
    gate,
    lab::{Lab, Plan},
    netns, wait,
};

const SOON: Duration = Duration::from_mins(1);
const MIB: u64 = 1 << 20;

/// Two nodes without speakers: on n1 this test itself listens, and takes whatever comes.
struct Sink {
    agent: Agent,
    lab: Lab,
    address: SocketAddr,
}

impl Sink {
    fn open() -> Result<Self> {
        let lab = Lab::build(Plan::of(2))?;
        let n1 = lab.node(1)?;
        let address = SocketAddr::from((n1.address, 179));
        let listener = netns::inside(&n1.namespace, || TcpListener::bind(address))??;
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn(move || {
                        let mut heard = vec![0; 64 << 10];
                        while stream.read(&mut heard).is_ok_and(|length| length > 0) {}
                    })
                    .ok();
            }
        });
        // The inventory names n2, so that what it sends is a peer's and not a stranger's.
        let options = Options {
            inventory: true,
            ..Options::default()
        };
        let agent = Agent::start(&lab, &options)?;
        Ok(Self {
            agent,
            lab,
            address,
        })
    }

    fn dial(&self) -> Result<TcpStream> {
        let n2 = &self.lab.node(2)?.namespace;
        netns::inside(n2, || TcpStream::connect_timeout(&self.address, SOON))?
            .with_context(|| format!("n2 to {}", self.address))
    }

    /// Things wrong or lost, as counted for n1.
    fn counted(&self) -> Result<f64> {
        let scrape = self.agent.scrape()?;
        let errors = scrape.sum("bgp_observer_decode_errors_total", &[("node", "n1")]);
        let gaps = scrape.sum("bgp_observer_tap_gaps_total", &[("node", "n1")]);
        let lost = scrape.sum("bgp_observer_events_lost_total", &[("stage", "tap")]);
        let table = scrape.sum("bgp_observer_events_lost_total", &[("stage", "table")]);
        let half = scrape.sum(
            "bgp_observer_tap_unfinished_messages_total",
            &[("node", "n1")],
        );
        Ok(errors + gaps + lost + table + half)
    }

    /// Does `burden` and holds the agent's memory, at its highest, to `limit` more than before.
    fn bear<T>(&self, what: &str, limit: u64, burden: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.agent.resident_bytes()?;
        let (over, most) = (AtomicBool::new(false), AtomicU64::new(before));
        let done = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let now = self.agent.resident_bytes().unwrap_or(0);
                    most.fetch_max(now, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let done = burden();
            over.store(true, Ordering::Relaxed);
            done
        })?;
        let (most, after) = (most.into_inner(), self.agent.resident_bytes()?);
        writeln!(
            std::io::stdout(),
            "{what}: resident {} MiB before, {} at most, {} after; {} counted",
            before / MIB,
            most / MIB,
            after / MIB,
            self.counted()?
        )?;
        ensure!(
            most.saturating_sub(before) < limit,
            "{what}: {} MiB became {} MiB",
            before / MIB,
            most / MIB
        );
        self.agent.process().must_run()?;
        Ok(done)
    }

    fn await_counted(&self, more_than: f64) -> Result<()> {
        wait::soon("it is counted", SOON, || {
            let counted = self.counted()?;
            ensure!(counted > more_than, "{counted}");
            Ok(())
        })
    }
}

/// The same every time, and nothing like BGP's marker.
fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let octets = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    octets.flatten().take(length).collect()
}

/// The first `length` octets of a message that says it has 4,096.
fn half_a_message(length: usize) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend([0x10, 0x00, 2]);
    message.resize(length, 0);
    message
}

#[test]
fn garbage_costs_a_counter() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let sink = Sink::open()?;
    let before = sink.counted()?;
    // What is on its way from the wire to the core takes some 40 MiB, however much comes: an agent that has
    // just started, and given back what that took, does not have them yet.
    sink.bear("16 MiB of garbage", 64 * MIB, || {
        let mut stream = sink.dial()?;
        stream.write_all(&garbage(16 << 20))?;
        sink.await_counted(before)
    })
}

#[test]
fn four_thousand_connections_with_half_a_message_each_cost_bounded_memory() -> Result<()> {
    const CONNECTIONS: usize = 4_096;
    if !gate::open()? {
        return Ok(());
    }
    // Both ends are this process's.
    setrlimit(Resource::RLIMIT_NOFILE, 16_384, 16_384)?;
    let sink = Sink::open()?;
    let before = sink.counted()?;
    // DESIGN §5: what a node holds back for all its connections is 64 MiB at most, on both nodes.
    sink.bear("4,096 connections", 160 * MIB, || {
        let half = half_a_message(3_000);
        let mut streams = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let mut stream = sink.dial()?;
            stream.write_all(&half)?;
            streams.push(stream);
        }
        wait::soon("the agent still answers", SOON, || sink.agent.peers())?;
        // They still stand, and not one has ended: what they cost shows at once.
        sink.await_counted(before)?;
        drop(streams);
        Ok(())
    })?;
    // They are gone, and so is what was held for them, or soon.
    wait::soon("connections are forgotten", SOON, || {
        let peers = sink.agent.peers()?;
        let left: usize = peers.iter().map(|peer| peer.connections.len()).sum();
        ensure!(left < 16, "{left} left");
        Ok(())
    })
}

#[test]
fn a_gigabyte_without_a_header_costs_a_counter() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let sink = Sink::open()?;
    let before = sink.counted()?;
    // Ones alone are the worst: any 16 of them could begin a message.
    let chunk: Vec<u8> = [vec![0xff; 1 << 16], garbage(1 << 16)].concat();
    // What may wait between the tap and the core is 64 batches of 1 MiB, and 4 MiB of each drained
    // socket on their way there; freed, it is the allocator's for a while.
    sink.bear("1 GiB without a header", 160 * MIB, || {
        let mut stream = sink.dial()?;
        for _ in 0..(1_u64 << 30) / (1 << 17) {
            stream.write_all(&chunk)?;
        }
        drop(stream);
        sink.await_counted(before)
    })
}
