//! What the wire shows is not what the kernel took, nor is all of it this node's: firewalls, forgers,
//! transit, and an agent that comes in the middle.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_core::{
    bgp::Family,
    bgp_view::ConversationView,
    cause::Cause,
    change::Change,
    peer::{Flap, PeerView},
};
use observer_tests::{
    agent::{Agent, Options},
    capture::{Capture, frames},
    crowd, firewall,
    forge::{Flags, Stand},
    gate,
    lab::{Lab, Plan},
    netns,
    stage::observed,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(20);
const N2: &str = "10.0.0.2";

/// As where nothing can be seen at the speakers' sockets.
fn by_packet_sockets() -> Options {
    Options {
        more: vec!["--tap=packet".to_owned()],
        ..Options::default()
    }
}

/// n1's view of n2.
fn view(agent: &Agent) -> Result<PeerView> {
    view_of(agent, "n1", N2)
}

fn view_of(agent: &Agent, node: &str, peer: &str) -> Result<PeerView> {
    let peers = agent.peers()?;
    let mut found = peers.into_iter();
    let found = found.find(|view| view.node == node && view.peer == peer);
    found.with_context(|| format!("{node} has no peer {peer}"))
}

fn first_flap(agent: &Agent, limit: Duration) -> Result<Flap> {
    wait::soon("a flap of n1", limit, || {
        let flaps = agent.flaps()?;
        let mut flaps = flaps.into_iter();
        let flap = flaps.find(|flap| flap.node == "n1" && flap.peer == N2);
        flap.context("none recorded")
    })
}

#[test]
fn a_keepalive_behind_this_nodes_firewall_was_not_received() -> Result<()> {
    behind_a_firewall(&Options::default())
}

#[test]
fn nor_was_one_that_a_packet_socket_saw_in_front_of_it() -> Result<()> {
    behind_a_firewall(&by_packet_sockets())
}

fn behind_a_firewall(options: &Options) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::of(2).hold(9), options)?;
    let n1 = lab.node(1)?;
    let events = agent.follow(&lab)?;
    firewall::deafen(&n1.namespace)?;
    // Whatever passed before the firewall stood has been counted when two looks agree.
    let keepalives =
        |agent: &Agent| -> Result<u64> { Ok(view(agent)?.bgp.messages.received.keepalive) };
    let before = wait::until("a quiet moment", SOON, Duration::ZERO, || {
        let first = keepalives(&agent)?;
        let second = keepalives(&agent)?;
        ensure!(first == second, "{first}, then {second}");
        Ok(first)
    })?;
    let capture = Capture::start(lab.estate(), &n1.namespace, "eth0", "n1")?;
    let flap = first_flap(&agent, SOON)?;
    // Its NOTIFICATION waits behind data that nobody acknowledges: TCP may send nothing new.
    let Cause::HoldTimerExpired { silent_millis, .. } = flap.cause else {
        anyhow::bail!("{}", flap.cause_text);
    };
    // BIRD 1.6 shortens its timer by up to a quarter, and counts whole seconds.
    ensure!(
        (5_500..11_000).contains(&silent_millis),
        "{}",
        flap.cause_text
    );
    ensure!(
        keepalives(&agent)? == before,
        "{before}, then {}",
        keepalives(&agent)?
    );
    let told = events.drain(Duration::from_millis(200))?;
    let foretold = told.iter().any(|told| {
        matches!(&told.change, Change::HoldMarginLow { peer, .. } if told.node == "n1" && peer == N2)
    });
    ensure!(
        foretold,
        "nothing told that the hold timer is about to expire: {told:?}"
    );

    // The premise: there were KEEPALIVEs to be seen, in front of the firewall.
    let seen = frames(
        &capture.stop()?,
        "ip.src == 10.0.0.2 && bgp.type == 4",
        &["tcp.len"],
    )?;
    ensure!(!seen.is_empty(), "n2 sent no KEEPALIVE");
    Ok(())
}

#[test]
fn forged_segments_change_nothing_but_a_counter() -> Result<()> {
    forged_segments(&Options::default())
}

#[test]
fn nor_do_they_where_packet_sockets_see_them() -> Result<()> {
    forged_segments(&by_packet_sockets())
}

fn forged_segments(options: &Options) -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::build(Plan::of(2).hold(30))?;
    let agent = Agent::start(&lab, options)?;
    let n1 = lab.node(1)?;
    let capture = Capture::start(lab.estate(), &n1.namespace, "eth0", "n1")?;
    lab.start_all()?;
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), SOON)?;
    let stand = || Stand::of(capture.file(), lab.node(2)?.address, n1.address);
    let out_of_window = || -> Result<f64> {
        let scrape = agent.scrape()?;
        Ok(scrape.sum("bgp_observer_tap_out_of_window_total", &[("node", "n1")]))
    };
    let (before, strays) = (view(&agent)?, out_of_window()?);
    let cease = crowd::notification(6, 2);
    let at = stand()?;
    let (rst, fin) = (
        Flags {
            rst: true,
            ..Flags::default()
        },
        Flags {
            fin: true,
            ..Flags::default()
        },
    );
    let far = 100_000_000;
    let refused = [
        // Beyond any window.
        at.forge(far, 0, rst, &[]),
        at.forge(far, 0, Flags::default(), &cease),
        at.forge(far, 0, fin, &[]),
        // RFC 5961 §3.2: in the window, but not the very next number.
        at.forge(40, 0, rst, &[]),
        // At the very next number, acknowledging what was never sent.
        at.forge(0, 5_000, Flags::default(), &cease),
        at.forge(0, 5_000, fin, &[]),
        at.forge(-19, 5_000, Flags::default(), &cease),
    ];
    for forged in &refused {
        forged.send(&lab.bridge())?;
    }
    // In every way the very next segment, but for a checksum with which no kernel takes it: what comes
    // at its place afterwards is what the peer said. Long enough that the kernel does not verify it at
    // once, which is before any of its own could be seen at a socket.
    at.forge(0, 0, Flags::default(), &cease.repeat(5))
        .corrupt()
        .send(&lab.bridge())?;
    // What was received before comes once more, in other words: nobody reads it again.
    let header: Vec<u8> = cease.iter().copied().take(19).collect();
    at.forge(-19, 0, Flags::default(), &header)
        .send(&lab.bridge())?;
    wait::soon("each is counted", SOON, || {
        let counted = out_of_window()? - strays;
        ensure!(counted >= 7.0, "{counted} of {}", refused.len());
        let corrupt = [("node", "n1"), ("fate", "corrupt")];
        let corrupt = agent
            .scrape()?
            .sum("bgp_observer_tap_segments_total", &corrupt);
        ensure!(corrupt >= 1.0, "{corrupt} with a wrong checksum");
        Ok(())
    })?;

    // The session goes on, and so does the reading of it, both ways.
    wait::soon("KEEPALIVEs go on", CONVERGES, || {
        let (now, then) = (view(&agent)?.bgp.messages, &before.bgp.messages);
        ensure!(now.received.keepalive > then.received.keepalive, "{now:?}");
        ensure!(now.sent.keepalive > then.sent.keepalive, "{now:?}");
        Ok(())
    })?;
    let after = view(&agent)?;
    ensure!(after.up && after.flaps == before.flaps, "{}", after.info);
    ensure!(
        after.bgp.messages.received.notification == 0,
        "{:?}",
        after.bgp.messages
    );
    ensure!(
        after.bgp.decode_errors.is_empty(),
        "{:?}",
        after.bgp.decode_errors
    );
    ensure!(
        after.bgp.conversation == ConversationView::Complete,
        "{:?}",
        after.bgp.conversation
    );

    // A RST with the very next number is one that the kernel believes: then it is the cause.
    stand()?.forge(0, 0, rst, &[]).send(&lab.bridge())?;
    let flap = first_flap(&agent, SOON)?;
    ensure!(flap.cause == Cause::ResetReceived, "{}", flap.cause_text);
    capture.stop().map(drop)
}

#[test]
fn transit_is_one_counter_and_no_peer() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    // KEEPALIVEs come often, and with each the core lets go of what nobody claimed. At the speakers'
    // sockets no transit is seen at all.
    let (lab, agent) = observed(Plan::of(2).hold(9), &by_packet_sockets())?;
    let n1 = lab.node(1)?;
    let (pod, address) = (n1.pod, n1.address);
    netns::ip(
        Some(&lab.bridge()),
        &[format!("route add {pod} via {address}")],
    )?;
    let transit = || -> Result<f64> {
        let scrape = agent.scrape()?;
        Ok(scrape.sum(
            "bgp_observer_tap_segments_total",
            &[("node", "n1"), ("fate", "transit")],
        ))
    };
    let (before, peers) = (transit()?, agent.peers()?.len());
    // A pod with a BGP speaker of its own, and its router beyond this node.
    let router = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 254), 179));
    let listener = netns::inside(&lab.bridge(), || TcpListener::bind(router))??;
    let keepalive = crowd::keepalive();
    std::thread::scope(|scope| -> Result<()> {
        let answer = scope.spawn(|| -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut heard = [0; 19];
            for _ in 0..50 {
                stream.read_exact(&mut heard)?;
                stream.write_all(&heard)?;
            }
            Ok(())
        });
        let mut stream = netns::inside(&n1.pod_namespace, || {
            TcpStream::connect_timeout(&router, SOON)
        })??;
        stream.set_read_timeout(Some(SOON))?;
        let mut heard = [0; 19];
        for _ in 0..50 {
            stream.write_all(&keepalive)?;
            stream.read_exact(&mut heard)?;
        }
        drop(stream);
        answer
            .join()
            .map_err(|_| anyhow::anyhow!("the router panicked"))?
    })?;
    wait::soon("transit is counted", SOON, || {
        let counted = transit()? - before;
        ensure!(counted >= 100.0, "{counted} segments");
        Ok(())
    })?;
    let scrape = agent.scrape()?;
    for stranger in [router.ip().to_string(), pod.to_string()] {
        let series = scrape.series();
        let named = series.iter().find(|series| series.contains(&stranger));
        ensure!(named.is_none(), "{named:?}");
    }
    ensure!(agent.peers()?.len() == peers, "{:?}", agent.peers()?);
    agent.await_all_up(lab.sessions(), SOON).map(drop)
}

#[test]
fn heard_at_their_sockets_speakers_are_left_to_no_packet_socket() -> Result<()> {
    if !gate::open()? || !gate::cgroups()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::of(2).hold(9), &Options::default())?;
    let n2 = lab.node(2)?;
    let tapped = |kind: &str| -> Result<()> {
        let labels = [("probe", "tap"), ("kind", kind)];
        let sum = agent.scrape()?.sum("bgp_observer_probe_attached", &labels);
        ensure!(sum >= 1.0, "no tap of kind {kind}");
        Ok(())
    };
    let alone = || -> Result<()> {
        for node in lab.nodes() {
            let open = netns::packet_sockets(&node.namespace)?;
            ensure!(open == 0, "{open} packet sockets in {}", node.name);
        }
        tapped("cgroup_skb")
    };
    wait::soon("no packet socket", CONVERGES, alone)?;
    // The next speaker may come in another cgroup: until it has come, and spoken, both listen. It comes in
    // the same, and not one of its messages is missed or counted twice.
    for number in [2, 3] {
        lab.end(n2, Signal::SIGKILL)?;
        wait::soon("a packet socket", SOON, || {
            let open = netns::packet_sockets(&n2.namespace)?;
            ensure!(open == 1, "{open} packet sockets");
            Ok::<_, anyhow::Error>(())
        })?;
        lab.start(n2)?;
        lab.await_established(CONVERGES)?;
        wait::soon("no packet socket again", CONVERGES, alone)?;
        for (node, peer) in [("n1", N2), ("n2", "10.0.0.1")] {
            wait::soon("both OPENs of each session", SOON, || {
                let seen = view_of(&agent, node, peer)?.bgp;
                let opens = (seen.messages.sent.open, seen.messages.received.open);
                ensure!(opens == (number, number), "{node}: {opens:?}");
                ensure!(
                    seen.conversation == ConversationView::Complete,
                    "{node}: {:?}",
                    seen.conversation
                );
                Ok(())
            })?;
        }
    }
    let lost = agent.scrape()?;
    let lost = lost.sum("bgp_observer_events_lost_total", &[("stage", "tap")]);
    ensure!(lost == 0.0, "{lost} segments were lost");
    Ok(())
}

#[test]
fn midway_into_an_add_path_mesh_prefixes_are_right_and_marked_inferred() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::up(Plan::default())?;
    lab.await_established(CONVERGES)?;
    let n2 = lab.node(2)?;
    let agent = Agent::start(&lab, &Options::default())?;
    agent.await_all_up(lab.sessions(), SOON)?;
    let more = |from: u8, to: u8| -> Result<()> {
        let route = |number| format!("  route 10.244.{number}.0/24 blackhole;\n");
        let routes = (from..to).map(route).collect::<Vec<_>>().concat();
        lab.configure(n2, &format!("\nprotocol static more {{\n{routes}}}\n"))?;
        lab.birdc(n2, "configure").map(drop)
    };
    let shown = |announced: u64, withdrawn: u64, prefixes: u64| {
        wait::soon("prefixes after the UPDATE", SOON, || {
            for node in ["n1", "n3"] {
                let seen = view_of(&agent, node, N2)?.bgp;
                let counted = seen.prefixes.get(&Family::IPV4_UNICAST).copied();
                ensure!(
                    (seen.announcements, seen.withdrawals, counted.unwrap_or(0))
                        == (announced, withdrawn, prefixes),
                    "{node}: {} announced, {} withdrawn, {counted:?}",
                    seen.announcements,
                    seen.withdrawals
                );
                ensure!(
                    seen.conversation == ConversationView::Inferred,
                    "{:?}",
                    seen.conversation
                );
                ensure!(seen.decode_errors.is_empty(), "{:?}", seen.decode_errors);
            }
            Ok(())
        })
    };
    more(200, 203)?;
    shown(3, 0, 3)?;
    more(202, 206)?;
    shown(6, 2, 4)
}
