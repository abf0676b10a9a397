//! The threads that read rtnetlink, one per observed namespace: subscribe, dump, then tell of changes
//! in batches, and dump again where the core or a full buffer asks for it.
//!
//! A thread waits when the intake does not take what it has; meanwhile the kernel's buffer fills, and
//! what does not fit is counted and repaired by a dump.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    eventfd::{EfdFlags, EventFd},
};
use observer_core::{
    event::{
        Event, Fact, LossStage, NetnsId,
        forwarding::{Forwarding, NeighbourState, RouteChange, RouteSource, Rule},
    },
    time::{Occurred, Timestamp},
};
use tokio::sync::mpsc;

use crate::source::{
    clock::boottime_now,
    netns::Netns,
    rtnetlink::{Kind, Read, Rtnetlink, decode::Told, filter::Followed},
};

/// Messages of all threads that wait for the intake, which takes all of them at once.
const WAITING: usize = 16;
/// Routes in one fact.
const CHUNK: usize = 512;
/// Dumps of one namespace are so far apart, and so many times as long as the last one took; but one that
/// comes after a rest may be followed by another at once: what was looked at without need must not
/// hold up what has just happened.
const DUMPS_APART: Duration = Duration::from_millis(20);
const DUMPS_REST: u32 = 3;
/// All is compared again this often, whatever was told.
const AUDIT: Duration = Duration::from_mins(5);
/// After changes the source rests for this long: to wake it for each costs whoever makes them more than
/// the reading does.
const PAUSE: Duration = Duration::from_millis(2);
/// How often an idle source looks, so that a change that ends the quiet lies within this: netlink has
/// no times, and what is known of one is only that it was not there at the look before.
const LOOK: Duration = Duration::from_millis(100);
/// A dump that the kernel calls incomplete is tried again so often in a row.
const TRIES: u32 = 5;

/// What a thread has to say.
#[derive(Debug)]
pub enum News {
    /// Facts, in order.
    Events(Vec<Event>),
    /// It cannot go on: why, and since when nothing is told.
    Failed(NetnsId, String, Timestamp),
}

#[derive(Debug)]
enum Wish {
    Dump { ipv6: bool, since: Timestamp },
    Follow(RouteSource),
}

#[derive(Debug)]
struct Reader {
    wishes: std_mpsc::Sender<Wish>,
    wake: Arc<EventFd>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // The thread finds its channel closed once it is awake; a full counter wakes it, too.
        let _ = self.wake.write(1);
    }
}

/// All readers.
#[derive(Debug)]
pub struct Routes {
    readers: BTreeMap<NetnsId, Reader>,
    /// Those that failed: since when nothing was told.
    failed: BTreeMap<NetnsId, Timestamp>,
    sender: mpsc::Sender<News>,
    followed: Followed,
}

impl Routes {
    /// None yet; what they say of routes that are followed comes out of the receiver.
    pub fn new(followed: Followed) -> (Self, mpsc::Receiver<News>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (readers, failed) = (BTreeMap::new(), BTreeMap::new());
        let routes = Self {
            readers,
            failed,
            sender,
            followed,
        };
        (routes, receiver)
    }

    /// Whether a namespace is read.
    pub fn reads(&self, netns: NetnsId) -> bool {
        self.readers.contains_key(&netns)
    }

    /// A reader failed; nothing was told since `since`.
    pub fn fail(&mut self, netns: NetnsId, since: Timestamp) {
        self.readers.remove(&netns);
        self.failed.insert(netns, since);
    }

    /// Begins to read in a namespace, for the first time or after a failure. Of changes `by` tells.
    ///
    /// # Errors
    /// As setns(2), socket(2) and setsockopt(2).
    pub fn begin(&mut self, netns: NetnsId, handle: &Netns, by: RouteSource) -> Result<()> {
        let socket = handle.run_in(|| Rtnetlink::open(&self.followed))??;
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let wake = Arc::new(wake);
        let (wishes, to_hear) = std_mpsc::channel();
        let work = Work {
            netns,
            socket,
            wake: Arc::clone(&wake),
            to_hear,
            sender: self.sender.clone(),
            by,
            quiet: self.failed.remove(&netns).unwrap_or_else(boottime_now),
            events: Vec::new(),
            changes: Vec::new(),
            neighbours: BTreeMap::new(),
            wanted: [None; 2],
            rules: false,
            surroundings: false,
            not_before: Timestamp::default(),
            rested: true,
            audit: Timestamp::default(),
            tries: 0,
        };
        thread::Builder::new()
            .name("rtnetlink".to_owned())
            .spawn(move || work.run())
            .context("cannot start the rtnetlink thread")?;
        self.readers.insert(netns, Reader { wishes, wake });
        Ok(())
    }

    /// Lets go of a namespace: our sockets in it close.
    pub fn end(&mut self, netns: NetnsId) {
        self.readers.remove(&netns);
        self.failed.remove(&netns);
    }

    /// Dumps a family's routes; what the mirror has beyond them went after `since`.
    pub fn dump(&self, netns: NetnsId, ipv6: bool, since: Timestamp) {
        self.wish(netns, Wish::Dump { ipv6, since });
    }

    /// From now on `by` tells of changes; what nobody told meanwhile is found by a dump.
    pub fn follow(&self, netns: NetnsId, by: RouteSource) {
        self.wish(netns, Wish::Follow(by));
    }

    fn wish(&self, netns: NetnsId, wish: Wish) {
        if let Some(reader) = self.readers.get(&netns) {
            // A thread that is gone has said why.
            let _ = reader.wishes.send(wish);
            let _ = reader.wake.write(1);
        }
    }
}

/// Whether rtnetlink can be used in the calling thread's namespace.
///
/// # Errors
/// Why not.
pub fn try_open() -> io::Result<()> {
    let mut socket = Rtnetlink::open(&Followed::default())?;
    socket.dump(Kind::Links)?;
    Ok(())
}

/// The intake has gone away, or the namespace was let go of.
#[derive(Debug)]
enum Stop {
    Asked,
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

struct Work {
    netns: NetnsId,
    socket: Rtnetlink,
    wake: Arc<EventFd>,
    to_hear: std_mpsc::Receiver<Wish>,
    sender: mpsc::Sender<News>,
    /// Who tells of changes.
    by: RouteSource,
    /// When the socket was last found empty: what is read next happened after it.
    quiet: Timestamp,
    /// Not yet sent.
    events: Vec<Event>,
    changes: Vec<RouteChange>,
    /// What was last told of each, so that only what matters is told.
    neighbours: BTreeMap<(u32, std::net::IpAddr), NeighbourState>,
    /// Dumps that are wanted, of IPv4 and IPv6: since when the mirror may be wrong.
    wanted: [Option<Timestamp>; 2],
    /// A rule changed.
    rules: bool,
    /// Links, addresses and neighbours have to be dumped again.
    surroundings: bool,
    not_before: Timestamp,
    /// The last dump came after a rest.
    rested: bool,
    audit: Timestamp,
    tries: u32,
}

impl Work {
    fn run(mut self) {
        match self.read() {
            Stop::Asked => {}
            Stop::Failed(error) => {
                let told = News::Failed(self.netns, format!("rtnetlink: {error}"), self.quiet);
                // Nobody may be there to hear it.
                let _ = self.sender.blocking_send(told);
            }
        }
    }

    fn read(&mut self) -> Stop {
        let mut go = || -> Result<(), Stop> {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
            let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
            epoll
                .add(self.socket.as_fd(), readable())
                .map_err(io::Error::from)?;
            epoll
                .add(self.wake.as_fd(), readable())
                .map_err(io::Error::from)?;
            self.start()?;
            loop {
                let mut events = [EpollEvent::empty(); 2];
                match epoll.wait(&mut events, self.timeout()) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(io::Error::from(error).into()),
                }
                self.hear_wishes()?;
                if self.drain()? {
                    thread::sleep(PAUSE);
                }
                self.dump_wanted()?;
            }
        };
        match go() {
            Err(stop) => stop,
            Ok(()) => Stop::Asked,
        }
    }

    fn start(&mut self) -> Result<(), Stop> {
        self.follow();
        self.surroundings = true;
        self.rules = true;
        self.dump_wanted()
    }

    fn follow(&mut self) {
        let by = self.by;
        self.note(Forwarding::Followed { by });
        self.want(false, self.quiet);
        self.want(true, self.quiet);
    }

    fn timeout(&self) -> EpollTimeout {
        let wanted = self.rules || self.surroundings || self.wanted.iter().any(Option::is_some);
        let until = if wanted {
            self.next_dump().min(self.audit)
        } else {
            self.audit
        };
        let millis = until.since(boottime_now()).min(LOOK).as_millis() + 1;
        EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX))
            .unwrap_or(EpollTimeout::MAX)
    }

    fn hear_wishes(&mut self) -> Result<(), Stop> {
        // Nothing to read is no failure.
        let _ = self.wake.read();
        loop {
            match self.to_hear.try_recv() {
                Ok(Wish::Dump { ipv6, since }) => self.want(ipv6, since),
                Ok(Wish::Follow(by)) => {
                    self.by = by;
                    self.follow();
                }
                Err(std_mpsc::TryRecvError::Empty) => return Ok(()),
                Err(std_mpsc::TryRecvError::Disconnected) => return Err(Stop::Asked),
            }
        }
    }

    fn want(&mut self, ipv6: bool, since: Timestamp) {
        if let Some(wanted) = self.wanted.get_mut(usize::from(ipv6)) {
            *wanted = Some(wanted.map_or(since, |old| old.min(since)));
        }
    }

    /// Reads all changes there are, and sends them; whether there were any.
    fn drain(&mut self) -> Result<bool, Stop> {
        let mut any = false;
        let mut told = Vec::new();
        loop {
            let now = boottime_now();
            let mut broken = 0;
            let read = self.socket.read(|one| told.push(one), &mut broken)?;
            for one in told.drain(..) {
                self.take(one)?;
            }
            if broken > 0 {
                self.lose();
            }
            match read {
                Read::Some => any = true,
                Read::Overrun => self.lose(),
                Read::Empty => {
                    self.flush()?;
                    self.quiet = now;
                    return Ok(any);
                }
            }
        }
    }

    /// Messages were lost: everything has to be looked at again.
    fn lose(&mut self) {
        let (stage, count) = (LossStage::Netlink, 1);
        self.pack();
        self.events
            .push(Event::noticed(boottime_now(), Fact::Lost { stage, count }));
        self.surroundings = true;
        self.rules = true;
        self.want(false, self.quiet);
        self.want(true, self.quiet);
    }

    fn take(&mut self, told: Told) -> Result<(), Stop> {
        match told {
            // Told with its time and writer by the probes. What they should miss a dump finds.
            Told::Route(_) if self.by == RouteSource::Probe => {}
            Told::Route(change) => {
                self.changes.push(change);
                if self.changes.len() >= CHUNK {
                    self.flush()?;
                }
            }
            Told::Else(Forwarding::Neighbour {
                interface,
                address,
                state,
            }) => {
                let key = (interface, address);
                let news = if state == NeighbourState::Gone {
                    self.neighbours.remove(&key).is_some()
                } else {
                    self.neighbours.insert(key, state) != Some(state)
                };
                if news {
                    self.note(Forwarding::Neighbour {
                        interface,
                        address,
                        state,
                    });
                }
            }
            Told::Else(forwarding) => self.note(forwarding),
            Told::Rule(..) => self.rules = true,
            Told::NextHop(..) | Told::Done | Told::Error(_) | Told::Nothing => {}
        }
        Ok(())
    }

    fn note(&mut self, forwarding: Forwarding) {
        self.pack();
        let occurred = Occurred::noticed(self.quiet, boottime_now());
        self.push(occurred, forwarding);
    }

    fn push(&mut self, occurred: Occurred, forwarding: Forwarding) {
        let netns = self.netns;
        let fact = Fact::Forwarding { netns, forwarding };
        self.events.push(Event { occurred, fact });
    }

    /// Route changes become one event.
    fn pack(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        let source = RouteSource::Netlink;
        let occurred = Occurred::noticed(self.quiet, boottime_now());
        self.push(occurred, Forwarding::Changed { source, changes });
    }

    fn flush(&mut self) -> Result<(), Stop> {
        self.pack();
        if self.events.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(&mut self.events);
        let sent = self.sender.blocking_send(News::Events(events));
        sent.map_err(|_| Stop::Asked)
    }

    fn dump_wanted(&mut self) -> Result<(), Stop> {
        let begun = boottime_now();
        if begun >= self.audit {
            self.audit = begun.after(AUDIT);
            self.want(false, self.quiet);
            self.want(true, self.quiet);
        }
        if begun < self.next_dump() {
            return Ok(());
        }
        let rested = begun >= self.not_before;
        let mut dumped = false;
        if std::mem::take(&mut self.surroundings) {
            for kind in [Kind::Links, Kind::Addresses, Kind::Neighbours] {
                self.dump_each(kind)?;
            }
            dumped = true;
        }
        if std::mem::take(&mut self.rules) {
            self.dump_rules(false)?;
            self.dump_rules(true)?;
            dumped = true;
        }
        for ipv6 in [false, true] {
            let wanted = self.wanted.get_mut(usize::from(ipv6));
            if let Some(since) = wanted.and_then(Option::take) {
                self.dump_routes(ipv6, since)?;
                dumped = true;
            }
        }
        if dumped {
            let now = boottime_now();
            let rest = now.since(begun) * DUMPS_REST;
            self.not_before = now.after(rest.max(DUMPS_APART));
            self.rested = rested;
        }
        Ok(())
    }

    /// When the next dump may begin.
    fn next_dump(&self) -> Timestamp {
        if self.rested {
            Timestamp::default()
        } else {
            self.not_before
        }
    }

    fn dump_each(&mut self, kind: Kind) -> Result<(), Stop> {
        for told in self.socket.dump(kind)? {
            self.take(told)?;
        }
        self.flush()
    }

    fn dump_rules(&mut self, ipv6: bool) -> Result<(), Stop> {
        // A kernel without policy routing has none.
        let told = self.socket.dump(Kind::Rules(ipv6)).unwrap_or_default();
        let mut rules: Vec<Rule> = told
            .into_iter()
            .filter_map(|told| match told {
                Told::Rule(_, rule) => rule,
                Told::Route(_)
                | Told::NextHop(..)
                | Told::Else(_)
                | Told::Done
                | Told::Error(_)
                | Told::Nothing => None,
            })
            .collect();
        rules.sort_by_key(|rule| rule.priority);
        self.note(Forwarding::Rules { ipv6, rules });
        self.flush()
    }

    /// Dumps the routes of a family. What changed meanwhile is sent before the rows that were read
    /// before it, so that the core knows which is newer.
    fn dump_routes(&mut self, ipv6: bool, since: Timestamp) -> Result<(), Stop> {
        self.socket.settle()?;
        // Before Linux 5.3 there are none. What they are was learned in passing.
        let _: io::Result<Vec<Told>> = self.socket.dump(Kind::NextHops);
        self.drain()?;
        self.note(Forwarding::DumpBegun { ipv6, since });
        self.flush()?;
        let mut complete = true;
        let mut routes = Vec::new();
        let mut last = false;
        self.socket.ask(Kind::Routes(ipv6))?;
        while !last {
            let rows = match self.socket.rows() {
                Ok(rows) => rows,
                // A kernel without the family has no routes of it.
                Err(error) if is_unsupported(&error) => break,
                Err(error) => return Err(error.into()),
            };
            complete &= rows.consistent;
            last = rows.last;
            routes.extend(rows.told.into_iter().filter_map(|told| match told {
                Told::Route(change) => Some(change.route),
                Told::Rule(..)
                | Told::NextHop(..)
                | Told::Else(_)
                | Told::Done
                | Told::Error(_)
                | Told::Nothing => None,
            }));
            if routes.len() >= CHUNK || last {
                self.drain()?;
                let routes = std::mem::take(&mut routes);
                self.note(Forwarding::Dumped { routes });
                self.flush()?;
            }
        }
        self.note(Forwarding::DumpEnded { complete });
        self.flush()?;
        self.tries = if complete { 0 } else { self.tries + 1 };
        if !complete && self.tries <= TRIES {
            self.want(ipv6, since);
        }
        Ok(())
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
    )
}
