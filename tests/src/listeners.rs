//! Others that listen to route changes beside the agent: `ip monitor`, and a reader with the buffer that
//! a socket has unless it asks for more.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike},
    },
    time::{ClockId, clock_gettime},
};

use crate::{
    lab::{Lab, Node},
    netns,
    process::{self, Process},
    programs,
};

/// `RTMGRP_IPV4_ROUTE` and `RTMGRP_IPV6_ROUTE` (linux/rtnetlink.h).
const ROUTES: u32 = 0x40 | 0x400;

/// What a listener heard.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// Route changes.
    pub changes: u64,
    /// How often its buffer had been full: nobody told it how many it missed.
    pub overruns: u64,
    /// How much time it had a CPU.
    pub cpu: Duration,
}

/// A running `ip monitor route`.
#[derive(Debug)]
pub struct IpMonitor {
    process: Process,
    told: std::path::PathBuf,
}

impl IpMonitor {
    /// Starts one at `node`, with `options` of `ip`.
    pub fn start(lab: &Lab, node: &Node, options: &[&str]) -> Result<Self> {
        let told = lab.estate().folder().join("ip-monitor.txt");
        let file = fs::File::create(&told).context("cannot write what ip monitor says")?;
        let mut command: Command = programs::find("iproute2", "ip")?.command();
        command.arg("-o").args(options).args(["monitor", "route"]);
        let stdout = Some(Stdio::from(file));
        let netns = Some(node.namespace.as_str());
        let process = Process::start(lab.estate(), "ip-monitor", netns, &mut command, stdout)?;
        Ok(Self { process, told })
    }

    /// Ends it.
    pub fn end(self) -> Result<Heard> {
        let cpu = process::cpu(self.process.pid())?;
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(10))?;
        let told = String::from_utf8(fs::read(&self.told)?).context("what ip monitor says")?;
        let complaints = fs::read_to_string(self.process.log())?;
        Ok(Heard {
            changes: told.lines().count() as u64,
            overruns: complaints.matches("No buffer space").count() as u64,
            cpu,
        })
    }
}

/// A thread that reads and does nothing else, with the default receive buffer.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Heard>,
}

impl Reader {
    /// Starts one at `node`.
    pub fn start(node: &Node) -> Result<Self> {
        let socket = netns::inside(&node.namespace, open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || read(&socket, &stopped));
        Ok(Self { stop, thread })
    }

    /// Ends it.
    pub fn end(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the reader panicked"))
    }
}

fn open() -> Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, ROUTES))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(100))?;
    Ok(socket)
}

fn read(socket: &OwnedFd, stop: &AtomicBool) -> Heard {
    let mut heard = Heard::default();
    let mut buffer = vec![0; 32 << 10];
    loop {
        // Each change is a datagram of its own.
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(_) => heard.changes += 1,
            Err(Errno::ENOBUFS) => heard.overruns += 1,
            Err(_) if stop.load(Ordering::Relaxed) => {
                let cpu = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
                heard.cpu = cpu.map(Duration::from).unwrap_or_default();
                return heard;
            }
            Err(_) => {}
        }
    }
}
