//! Namespaces of the tests' own, and an observed source that can be waited on.

use std::{
    ffi::OsStr,
    io::{self, Write},
    net::IpAddr,
    ops::{Deref, DerefMut},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use observer::source::{
    kernel::{KernelOptions, KernelSource, RouteProbes},
    netns::Netns,
};
use observer_core::event::{Event, Fact, NetnsId};

/// How long anything may take before a test gives up.
pub fn patience() -> Duration {
    Duration::from_secs(5) * slowness()
}

/// Whether this kernel is known to let its functions be traced (fentry, fexit).
pub fn traces() -> bool {
    std::env::var_os("BGP_OBSERVER_TEST_TRACES").is_some()
}

/// How many times slower than usual the machine is: guests without hardware virtualization are.
pub fn slowness() -> u32 {
    let told = std::env::var("BGP_OBSERVER_TEST_SLOWNESS").ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(1)
}

/// How often a condition is looked at until then.
const POLL: Duration = Duration::from_millis(1);

/// Whether tests of the kernel can run here. In CI they must.
pub fn can_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let why = "tests of the kernel programs need root: they load BPF and make namespaces";
    assert!(std::env::var_os("CI").is_none(), "{why}");
    let _ = writeln!(io::stderr(), "skipped: {why}");
    false
}

/// Held for reading by every source, so that one test can be [`alone`].
static SOURCES: RwLock<()> = RwLock::new(());

/// Waits until no other test of this process has a source, and keeps them from starting one.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    let guard = SOURCES.write().unwrap_or_else(PoisonError::into_inner);
    idle().clear();
    guard
}

/// Tries until `found` gives something.
pub fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// A process that is killed and reaped when dropped.
pub struct Speaker(pub Child);

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace with its loopback up, gone when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self {
            name: format!("bo-{}-{number}", std::process::id()),
        };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", self.name.as_str()], arguments].concat());
    }

    /// Lines of `ip`, in one process.
    pub fn batch(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip");
        let mut stdin = child.stdin.take().expect("its stdin");
        stdin.write_all(lines.as_bytes()).expect("lines");
        drop(stdin);
        assert!(child.wait().expect("ip").success(), "{lines}");
    }

    pub fn netns(&self) -> Netns {
        Netns::named(&self.name).expect("the namespace just made")
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns().run_in(f).expect("entering the namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Connects two namespaces.
pub fn cable(one: (&Namespace, &str), other: (&Namespace, &str)) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (left, right) = (format!("l{number}"), format!("r{number}"));
    one.0.ip(&[
        "link",
        "add",
        &left,
        "type",
        "veth",
        "peer",
        &right,
        "netns",
        &other.0.name,
    ]);
    for ((namespace, address), device) in [(one, left), (other, right)] {
        // An IPv6 address is tentative for a second or two (RFC 4862 section 5.4), and what is sent
        // to it meanwhile is lost without a word.
        let dad: &[&str] = if address.contains(':') {
            &["nodad"]
        } else {
            &[]
        };
        namespace.ip(&[&["addr", "add", address, "dev", &device], dad].concat());
        namespace.ip(&["link", "set", &device, "up"]);
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip");
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// By which kinds routes are to be told where this kernel is known to allow both; else whatever it does.
pub fn route_kinds() -> &'static [RouteProbes] {
    if traces() {
        &[RouteProbes::Fentry, RouteProbes::Kprobe]
    } else {
        &[RouteProbes::Auto]
    }
}

/// Sources that no test has at the moment. Attaching one takes a guest seconds.
static IDLE: Mutex<Vec<Source>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Source>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An attached source.
struct Source {
    kind: RouteProbes,
    kernel: KernelSource,
    /// How many probes run.
    attached: usize,
}

impl Source {
    fn start(kind: RouteProbes) -> Self {
        let (source, statuses) = KernelSource::start(&KernelOptions {
            ports: vec![179],
            routes: kind,
            ..KernelOptions::default()
        });
        for status in &statuses {
            // Routes have another source where the kernel refuses these, and nothing stands for
            // dropped packets; `attached` looks at them.
            let may_be_off = status.name.starts_with("route") || status.name == "packet_dropped";
            assert!(status.attached || may_be_off, "{status:?}");
        }
        Self {
            kind,
            kernel: source.expect("all probes attached"),
            attached: statuses.iter().filter(|status| status.attached).count(),
        }
    }
}

/// A source that observes namespaces, and every event it has given.
pub struct Observed {
    pub source: KernelSource,
    pub events: Vec<Event>,
    /// How many probes run.
    pub attached: usize,
    _shared: Option<RwLockReadGuard<'static, ()>>,
}

/// [`Observed`], to be used again by the next test when dropped.
pub struct Reused {
    observed: Option<Observed>,
    kind: RouteProbes,
}

impl Deref for Reused {
    type Target = Observed;

    fn deref(&self) -> &Observed {
        self.observed.as_ref().expect("until it is dropped")
    }
}

impl DerefMut for Reused {
    fn deref_mut(&mut self) -> &mut Observed {
        self.observed.as_mut().expect("until it is dropped")
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        let Some(Observed {
            mut source,
            mut events,
            attached,
            _shared,
        }) = self.observed.take()
        else {
            return;
        };
        // What a failed test leaves behind is not passed on.
        if std::thread::panicking() || source.forget_all().is_err() {
            return;
        }
        while source.drain(&mut events) {}
        let kind = self.kind;
        idle().push(Source {
            kind,
            kernel: source,
            attached,
        });
    }
}

impl Observed {
    /// Every probe attached, nothing observed yet.
    pub fn start() -> Reused {
        Self::start_by(RouteProbes::Auto)
    }

    /// The same with routes told by this kind.
    pub fn start_by(kind: RouteProbes) -> Reused {
        let known = kind == RouteProbes::Auto && traces();
        let kind = if known { RouteProbes::Fentry } else { kind };
        let shared = SOURCES.read().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let mut idle = idle();
            let at = idle.iter().position(|source| source.kind == kind);
            at.map(|at| idle.swap_remove(at))
        };
        let source = found.unwrap_or_else(|| Source::start(kind));
        let observed = Self {
            source: source.kernel,
            events: Vec::new(),
            attached: source.attached,
            _shared: Some(shared),
        };
        Reused {
            observed: Some(observed),
            kind,
        }
    }

    /// As [`start`](Self::start), for a test that is [`alone`].
    pub fn start_unshared() -> Self {
        let source = Source::start(RouteProbes::Auto);
        Self {
            source: source.kernel,
            events: Vec::new(),
            attached: source.attached,
            _shared: None,
        }
    }

    pub fn of(namespace: &Namespace, known: &[&str]) -> Reused {
        let mut observed = Self::start();
        observed.observe(namespace, NetnsId(1));
        for peer in known {
            let peer: IpAddr = peer.parse().expect("an address");
            observed.source.trust(NetnsId(1), peer).expect("trust");
        }
        observed
    }

    pub fn observe(&mut self, namespace: &Namespace, id: NetnsId) {
        let inode = namespace.netns().inode();
        self.source.observe(inode, id).expect("observe");
    }

    /// Drains until `wanted` gives something for the events so far.
    pub fn wait<T>(&mut self, what: &str, wanted: impl Fn(&[Event]) -> Option<T>) -> T {
        let Self { source, events, .. } = self;
        let deadline = Instant::now() + patience();
        loop {
            while source.drain(events) {}
            if let Some(found) = wanted(events) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; there was {events:#?}"
            );
            std::thread::sleep(POLL);
        }
    }

    /// Drains until a fact is as `wanted`.
    pub fn wait_fact<T>(&mut self, what: &str, wanted: impl Fn(&Fact) -> Option<T>) -> T {
        self.wait(what, |events| {
            events.iter().find_map(|event| wanted(&event.fact))
        })
    }
}
