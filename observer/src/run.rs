//! The agent: brings everything up in order, waits for signals, brings everything down.
//!
//! Order: attach the kernel programs and let go of the capabilities which only that needed, as long
//! as there is one thread; then what can be refused (listeners, files); then subscribe, then dump,
//! then go on with events.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail};
use observer_core::{Observer, event::Fact};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use crate::{
    check::{kernel_options, sock_diags},
    cli::{Answer, ConfigArgs, RunArgs},
    cluster::{self, KubernetesPods},
    config::{Config, Listen},
    cross_check::{Comparisons, NodeStatusCheck},
    echoes::Echoes,
    flight::FlightRecorder,
    health::{Health, RoutesFrom},
    intake::{self, Alarm, Intake},
    inventory,
    keeper::{self, Keeper, Parts},
    listen::{self, UnixSocket},
    logging::{self, LogFilter},
    namespaces::Namespaces,
    own_thread::OwnThread,
    privileges,
    recorder::Recorder,
    routes::Routes,
    server,
    sink::{
        api::{self, Answers},
        metrics::Visibility,
        node_events::{self, KubernetesEvents},
    },
    sockets,
    source::{
        bird,
        kernel::{KernelSource, ProbeStatus},
        tap::try_open,
    },
    state_dir::{Loaded, SavedNodes, StateDir},
    store::{Remembered, Store},
    taps::Taps,
    terminal, tls,
};

/// Wishes of the core that can wait for the intake.
const CONTROLS: usize = 1024;

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<Answer> {
    let config = args.config.resolve()?;
    if args.print_config {
        terminal::print(&config.to_toml()?)?;
        return Ok(Answer::Done);
    }
    let log = logging::start(config.log_format, &config.log)?;
    let kernel = KernelSource::start(&kernel_options(&config));
    privileges::lower(&config, || {
        kernel.0.as_ref().is_none_or(KernelSource::answers)
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(agent(&args.config, config, &log, kernel))?;
    Ok(Answer::Done)
}

struct Listeners {
    unix: (UnixSocket, UnixListener),
    metrics: Option<TcpListener>,
    tls: Option<TlsAcceptor>,
    api: Option<TcpListener>,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self> {
        let tcp = |listen, option| match listen {
            Listen::Off => Ok(None),
            Listen::At(address) => listen::tcp(address, option).map(Some),
        };
        Ok(Self {
            tls: tls::acceptor(config)?,
            metrics: tcp(config.metrics_listen, "--metrics-listen")?,
            api: tcp(config.api_listen, "--api-listen")?,
            unix: UnixSocket::bind(&config.socket)?,
        })
    }

    /// Serves until the set is dropped; the unix socket's name lives as long as what is returned.
    fn serve(self, answers: &Answers, tasks: &mut JoinSet<()>) -> UnixSocket {
        let (socket, listener) = self.unix;
        tasks.spawn(server::serve(
            listener,
            None,
            api::unix_routes(answers.clone()),
        ));
        if let Some(listener) = self.metrics {
            tasks.spawn(server::serve(
                listener,
                self.tls,
                api::metrics_routes(answers.clone()),
            ));
        }
        if let Some(listener) = self.api {
            tasks.spawn(server::serve(
                listener,
                None,
                api::loopback_routes(answers.clone()),
            ));
        }
        socket
    }
}

async fn agent(
    args: &ConfigArgs,
    config: Config,
    log: &LogFilter,
    (mut kernel, probes): (Option<KernelSource>, Vec<ProbeStatus>),
) -> Result<()> {
    let mut signals = Signals::new()?;
    let listeners = Listeners::bind(&config)?;
    let inventory = config
        .inventory
        .as_deref()
        .map(inventory::read)
        .transpose()?;
    let recorder = config
        .record
        .as_deref()
        .map(|path| Recorder::start(path, &config.core()))
        .transpose()?;
    let (state_dir, saved) = open_state(&config);

    let health = Health::new(&probes);
    let (store, writing, remembered) =
        Store::start(&config.state_dir, config.store_limits(), health.clone())?;
    tell_probes(&health);
    if kernel.is_none() {
        refuse_blindness(&config, &probes)?;
    }

    let namespaces = Namespaces::new(&config);
    let (others, first) = first_facts(&namespaces, saved, remembered, inventory);
    let (asker, replies) = sockets::start(config.ports())?;
    let (queue, batches) = intake::queue();
    let (control, wishes) = mpsc::channel(CONTROLS);
    let (questions, to_answer) = mpsc::channel(cluster::QUESTIONS);
    let events = (config.kubernetes_events == KubernetesEvents::On).then(node_events::fates);
    let (announcer, tellings) = events.as_ref().map(node_events::queue).unzip();
    let (stop, stopping) = watch::channel(false);
    let (keeper, core) = keeper::start(Parts {
        observer: Observer::new(config.core()),
        queue: batches,
        control,
        asker: asker.clone(),
        questions,
        recorder,
        flight: Some(FlightRecorder::start(config.core())?),
        state_dir,
        store: Some(store.clone()),
        others,
        first,
        announcer,
        health: health.clone(),
    })?;
    let (routes, route_news) = Routes::new(config.followed_routes());
    let reader = OwnThread::new("reader")?;
    let intake = {
        let _inside = reader.enter();
        let taps = Taps::new(config.tap, &config.ports(), kernel.as_mut());
        Intake {
            kernel,
            routes,
            route_news,
            taps: taps.context("cannot wait for packets")?,
            echoes: Echoes::new(config.reach_probe.probe()).context("cannot wait for echoes")?,
            alarm: Alarm::new().context("cannot wait for a time")?,
            namespaces,
            asker,
            replies,
            control: wishes,
            queue,
            health: health.clone(),
        }
    };
    let reading = reader.run(intake.run(stopping))?;

    let mut readers = JoinSet::new();
    let compares = config.kubernetes_node_status == NodeStatusCheck::On;
    let comparisons = compares.then(Comparisons::default);
    let wanted = cluster::Wanted {
        kubernetes: config.kubernetes,
        questions: to_answer,
        pods: config.kubernetes_pods == KubernetesPods::On,
        events: tellings.zip(events.clone()),
        comparisons: comparisons.clone(),
    };
    cluster::start(wanted, &health, &keeper, &mut readers).await?;

    let bird_sockets = config.bird_sockets();
    let bird = (!bird_sockets.is_empty()).then(bird::results);
    if let Some(counts) = &bird {
        bird::start(bird_sockets, &keeper, &health, counts, &mut readers);
    }

    let mut servers = JoinSet::new();
    let node = config.node.clone().unwrap_or_else(crate::config::host_name);
    let answers = Answers {
        keeper: keeper.clone(),
        health,
        node: Arc::from(node),
        store: Some(store),
        visibility: Arc::new(Visibility::new(config.peer_metrics)),
        events,
        bird,
        comparisons,
    };
    let socket = listeners.serve(&answers, &mut servers);
    info!(socket = %config.socket.display(), metrics = %config.metrics_listen,
          api = %config.api_listen, "listening");

    let ended = signals.serve(args, config, log, &keeper).await;
    info!("stopping on {ended}");
    drop(socket);
    servers.abort_all();
    readers.abort_all();
    // The intake hands over what it has and lets go of its end of the queue; that ends the core's
    // task, which saves.
    let _ = stop.send(true);
    reading.end().await?;
    drop((keeper, answers));
    let ended = core.end().await;
    tokio::task::spawn_blocking(|| writing.finish())
        .await
        .context("the store's thread failed")?;
    ended
}

fn tell_probes(health: &Health) {
    let sources = health.sources();
    let off = sources.iter().filter(|source| !source.running);
    for source in off.filter(|source| !source.tells_routes()) {
        let why = source.reason.as_deref().unwrap_or("unknown");
        warn!(
            probe = source.name,
            lost = source.lost_without,
            "cannot run: {why}"
        );
    }
    // The probes of routes run all or none: told once.
    let routes = RoutesFrom::of(&sources);
    if routes.source == "probes" {
        info!("{routes}");
    } else {
        let why = routes.reason.as_deref().unwrap_or("unknown");
        info!("route changes come from rtnetlink, for kernel probes cannot tell of them: {why}");
    }
    if !health.sees_changes() {
        warn!(
            "the kernel does not tell of sessions: going on by polling sock_diag, so causes stay unknown and short \
             losses are missed"
        );
    }
}

/// Without probes, something has to be left that sees: better not to run than to run blind. And the
/// tap has to be left, or no cause could ever be told: who runs that has forgotten a capability.
fn refuse_blindness(config: &Config, probes: &[ProbeStatus]) -> Result<()> {
    if let Some(btf) = &config.btf {
        bail!(
            "--btf {}: no kernel probe can run with it; the reasons are above",
            btf.display()
        );
    }
    let looked = sock_diags(config);
    match looked.iter().find_map(|source| source.reason.as_deref()) {
        Some(reason) if !looked.iter().any(|source| source.running) => bail!(
            "nothing can be observed: no kernel probe runs, and sock_diag neither: {reason}; \
             `bgp-observer check` shows what is missing"
        ),
        _ => {}
    }
    let Err(no_tap) = try_open(&config.ports()) else {
        return Ok(());
    };
    let no_probe = probes.iter().find_map(|probe| probe.reason.as_deref());
    bail!(
        "nothing can run that tells why a session ends: no kernel probe ({}) and no packet tap ({no_tap}); \
         grant CAP_BPF and CAP_PERFMON, or at least CAP_NET_RAW; `bgp-observer check` shows each source",
        no_probe.unwrap_or("unknown reason")
    )
}

fn open_state(config: &Config) -> (Option<StateDir>, SavedNodes) {
    let state_dir = StateDir::new(&config.state_dir);
    let now = jiff::Timestamp::now().as_second();
    let opened = state_dir.prepare().and_then(|()| state_dir.load(now));
    match opened {
        Ok(Loaded { nodes, set_aside }) => {
            if let Some(told) = set_aside {
                error!("known peers are lost: {told}");
            }
            (Some(state_dir), nodes)
        }
        Err(error) => {
            error!("known peers will not survive a restart: {error:#}");
            (None, SavedNodes::new())
        }
    }
}

/// Saved peers of nodes that are not observed, and what the core is told before anything else.
fn first_facts(
    namespaces: &Namespaces,
    mut saved: SavedNodes,
    mut remembered: Remembered,
    inventory: Option<Vec<observer_core::event::InventoryPeer>>,
) -> (SavedNodes, Vec<Fact>) {
    let mut facts = vec![Fact::Versions {
        versions: versions(),
    }];
    facts.extend(inventory.map(|peers| Fact::Inventory { peers }));
    for node in namespaces.nodes() {
        if let Some(peers) = saved.remove(node) {
            facts.push(Fact::PeersRestored {
                node: node.to_owned(),
                peers,
            });
        }
        if let Some(incidents) = remembered.open.remove(node) {
            facts.push(Fact::IncidentsRestored {
                node: node.to_owned(),
                incidents,
                absent_since: remembered.alive,
            });
        }
    }
    (saved, facts)
}

/// What incidents name as at work here.
fn versions() -> BTreeMap<String, String> {
    let agent = env!("CARGO_PKG_VERSION").to_owned();
    let mut versions = BTreeMap::from([("bgp-observer".to_owned(), agent)]);
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        versions.insert("kernel".to_owned(), release.trim().to_owned());
    }
    versions
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP; returns the name of the signal that ends the agent.
    async fn serve(
        &mut self,
        args: &ConfigArgs,
        mut config: Config,
        log: &LogFilter,
        keeper: &Keeper,
    ) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => match reload(args, &config, log, keeper).await {
                    Ok(new) => config = new,
                    Err(error) => error!("nothing was reloaded: {error:#}"),
                },
            }
        }
    }
}

/// Takes over what can change in a running agent, and says what cannot.
async fn reload(
    args: &ConfigArgs,
    old: &Config,
    log: &LogFilter,
    keeper: &Keeper,
) -> Result<Config> {
    let new = args.resolve()?;
    let inventory = match &new.inventory {
        Some(path) => inventory::read(path)?,
        None => Vec::new(),
    };
    log.set(&new.log)?;
    let peers = inventory.len();
    if new.inventory.is_some() || old.inventory.is_some() {
        keeper
            .tell(vec![Fact::Inventory { peers: inventory }])
            .await?;
    }
    let mut running = old.clone();
    running.inventory.clone_from(&new.inventory);
    running.log.clone_from(&new.log);
    for key in running.differences(&new) {
        warn!("{key} changed: takes effect when the agent is restarted");
    }
    info!(inventory_peers = peers, log = new.log, "reloaded");
    Ok(running)
}
