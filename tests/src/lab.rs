//! A mesh of nodes: namespaces, links, pods, speakers.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use nix::sys::signal::Signal;

use crate::{
    birdc,
    cgroup::{self, Group},
    estate::Estate,
    netns,
    process::Process,
    programs,
    speaker::{ASN, Identity, Manners, Neighbor, Relation, Speaker},
    wait,
};

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many nodes, 2 to 200.
    pub nodes: u8,
    /// What every node but the first runs; the first runs BIRD 1.6.
    pub speaker: Speaker,
    /// Every kind of speaker in turn instead, after the first node's BIRD 1.6.
    pub mixed: bool,
    /// How they speak.
    pub manners: Manners,
    /// So many nodes, n2 and those after it, reflect the routes of all others (RFC 4456); without any
    /// the nodes are a full mesh.
    pub reflectors: u8,
    /// Scenarios leave the speakers the timers they have by default, and take minutes.
    pub own_timers: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 3,
            speaker: Speaker::Bird,
            mixed: false,
            manners: Manners::default(),
            reflectors: 0,
            own_timers: false,
        }
    }
}

impl Plan {
    /// The default, with so many nodes.
    pub fn of(nodes: u8) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }

    /// The same with a hold time.
    #[must_use]
    pub fn hold(mut self, seconds: u16) -> Self {
        self.manners.hold = Some(seconds);
        self
    }

    /// What node `number` runs.
    fn speaker_of(&self, number: u8) -> Speaker {
        if number == 1 {
            return Speaker::Bird;
        }
        let kinds = Speaker::value_variants().iter().copied();
        let mut turns = kinds.filter(|kind| *kind != Speaker::Bird).cycle();
        match turns.nth(usize::from(number) - 2) {
            Some(speaker) if self.mixed => speaker,
            Some(_) | None => self.speaker,
        }
    }

    /// The same with other peers for the first node.
    #[must_use]
    pub fn speaker(mut self, speaker: Speaker) -> Self {
        self.speaker = speaker;
        self
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// `n1`, `n2`, …
    pub name: String,
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    /// Its namespace.
    pub namespace: String,
    /// The namespace of the pod behind it.
    pub pod_namespace: String,
    /// The pod's address.
    pub pod: Ipv4Addr,
    /// The pods' block.
    pub block: String,
    /// What it runs.
    pub speaker: Speaker,
    /// Whether it reflects the others' routes.
    pub reflects: bool,
    process: Mutex<Option<Process>>,
    /// What its speaker lives in, where there can be one: then no other's packets pass the agent's tap.
    group: Option<Group>,
}

impl Node {
    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The speaker's pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }
}

/// A built lab.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    manners: Manners,
    own_timers: bool,
    // Last: processes go before namespaces and folder.
    estate: Estate,
}

impl Lab {
    /// Namespaces, links, addresses, routes and configurations; no speaker runs yet.
    pub fn build(plan: Plan) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab makes network namespaces: run it as root"
        );
        ensure!(
            (2..=200).contains(&plan.nodes),
            "a lab has 2 to 200 nodes, not {}",
            plan.nodes
        );
        let estate = Estate::found()?;
        let nodes = (1..=plan.nodes)
            .map(|number| {
                let name = format!("n{number}");
                let group = cgroup::unified().map(|_| Group::new(&estate, &name));
                Ok(Node {
                    address: Ipv4Addr::new(10, 0, 0, number),
                    namespace: estate.namespace(&name),
                    pod_namespace: estate.namespace(&format!("{name}-pod")),
                    pod: Ipv4Addr::new(10, 244, number, 2),
                    block: format!("10.244.{number}.0/26"),
                    speaker: plan.speaker_of(number),
                    reflects: (2..2 + plan.reflectors).contains(&number),
                    process: Mutex::new(None),
                    group: group.transpose()?,
                    name,
                })
            })
            .collect::<Result<_>>()?;
        let lab = Self {
            nodes,
            manners: plan.manners,
            own_timers: plan.own_timers,
            estate,
        };
        lab.wire()?;
        for node in &lab.nodes {
            lab.configure(node, "")?;
        }
        Ok(lab)
    }

    /// [`Lab::build`] and [`Lab::start`] of every speaker.
    pub fn up(plan: Plan) -> Result<Self> {
        let lab = Self::build(plan)?;
        lab.start_all()?;
        Ok(lab)
    }

    /// [`Lab::start`] of every speaker.
    pub fn start_all(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| self.start(node))
    }

    fn wire(&self) -> Result<()> {
        let bridge = self.bridge();
        let mut names = vec![format!("netns add {bridge}")];
        let mut links = vec![
            "link set lo up".to_owned(),
            "link add br0 type bridge stp_state 0 forward_delay 0".to_owned(),
            "address add 10.0.0.254/24 dev br0".to_owned(),
            "link set br0 up".to_owned(),
        ];
        for node in &self.nodes {
            let Node {
                name,
                namespace,
                pod_namespace,
                ..
            } = node;
            names.push(format!("netns add {namespace}"));
            names.push(format!("netns add {pod_namespace}"));
            links.push(format!(
                "link add {name} type veth peer name eth0 netns {namespace}"
            ));
            links.push(format!("link set {name} master br0 up"));
        }
        netns::ip(None, &names)?;
        netns::ip(Some(&bridge), &links)?;
        for (node, number) in self.nodes.iter().zip(1..) {
            let Node {
                address,
                pod_namespace,
                pod,
                ..
            } = node;
            let veth = format!("cali{number}");
            netns::ip(
                Some(&node.namespace),
                &[
                    "link set lo up".to_owned(),
                    format!("address add {address}/24 dev eth0"),
                    "link set eth0 up".to_owned(),
                    "route add default via 10.0.0.254".to_owned(),
                    format!("link add {veth} type veth peer name eth0 netns {pod_namespace}"),
                    format!("link set {veth} up"),
                    format!("route add {pod}/32 dev {veth} scope link"),
                ],
            )?;
            netns::ip(
                Some(pod_namespace),
                &[
                    "link set lo up".to_owned(),
                    format!("address add {pod}/32 dev eth0"),
                    "link set eth0 up".to_owned(),
                    "route add 169.254.1.1 dev eth0 scope link".to_owned(),
                    "route add default via 169.254.1.1".to_owned(),
                ],
            )?;
            netns::sysctl(
                &node.namespace,
                &[
                    ("ipv4/ip_forward", "1"),
                    (&format!("ipv4/conf/{veth}/proxy_arp"), "1"),
                    (&format!("ipv4/neigh/{veth}/proxy_delay"), "0"),
                ],
            )?;
        }
        Ok(())
    }

    /// Writes a node's configuration again, with `extra` appended.
    pub fn configure(&self, node: &Node, extra: &str) -> Result<()> {
        self.write(node, &self.identity(node, extra))
    }

    /// The same for a node that calls itself one of AS `asn`.
    pub fn configure_as(&self, node: &Node, asn: u32, extra: &str) -> Result<()> {
        let identity = self.identity(node, extra);
        self.write(node, &Identity { asn, ..identity })
    }

    /// The same for a node that knows nothing of `absent`.
    pub fn configure_without(&self, node: &Node, absent: &Node) -> Result<()> {
        let mut identity = self.identity(node, "");
        identity
            .neighbors
            .retain(|peer| peer.address != absent.address);
        self.write(node, &identity)
    }

    fn identity(&self, node: &Node, extra: &str) -> Identity {
        Identity {
            node: node.name.clone(),
            asn: ASN,
            address: node.address,
            block: node.block.clone(),
            neighbors: self.neighbors(node),
            extra: extra.to_owned(),
        }
    }

    fn write(&self, node: &Node, identity: &Identity) -> Result<()> {
        node.speaker
            .configure(self.estate.folder(), identity, self.manners)
    }

    /// A node's peers, as its speaker is configured.
    pub fn neighbors(&self, node: &Node) -> Vec<Neighbor> {
        let mesh = !self.nodes.iter().any(|node| node.reflects);
        let others = self.nodes.iter();
        let others = others.filter(|other| other.address != node.address);
        let neighbor = |other: &Node| match (node.reflects, other.reflects) {
            _ if mesh => Some(Neighbor::of(node.address, other.address)),
            (_, true) => Some(Neighbor::named(
                node.address,
                other.address,
                Relation::Reflector,
            )),
            (true, false) => Some(Neighbor::named(
                node.address,
                other.address,
                Relation::Client,
            )),
            (false, false) => None,
        };
        others.filter_map(neighbor).collect()
    }

    /// How the nodes speak.
    pub fn manners(&self) -> Manners {
        self.manners
    }

    /// Whether scenarios wait for the timers that speakers have by default.
    pub fn own_timers(&self) -> bool {
        self.own_timers
    }

    /// Starts a node's speaker.
    pub fn start(&self, node: &Node) -> Result<()> {
        self.start_with(node, self.manners)
    }

    /// Starts a node's speaker as `manners` ask for; what its configuration says stays.
    pub fn start_with(&self, node: &Node, manners: Manners) -> Result<()> {
        let folder = self.estate.folder();
        let command = node.speaker.command(folder, &node.name, manners)?;
        let enclosed = node.group.as_ref().map(|group| group.enclose(&command));
        self.run(node, enclosed.unwrap_or(command))
    }

    /// Starts a node's speaker with all its sockets bound to `vrf`, a device of the node.
    pub fn start_in_vrf(&self, node: &Node, vrf: &str) -> Result<()> {
        let folder = self.estate.folder();
        let inner = node.speaker.command(folder, &node.name, self.manners)?;
        let mut command = programs::find("iproute2", "ip")?.command();
        command.args(["vrf", "exec", vrf]).arg(inner.get_program());
        command.args(inner.get_args());
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        self.run(node, command)
    }

    fn run(&self, node: &Node, mut command: Command) -> Result<()> {
        let mut slot = node.process();
        if let Some(process) = slot.as_ref()
            && process.ended().is_none()
        {
            bail!("the speaker of {} is still running", node.name);
        }
        *slot = Some(Process::start(
            &self.estate,
            &node.name,
            Some(&node.namespace),
            &mut command,
            None,
        )?);
        Ok(())
    }

    /// Sends a node's speaker a signal.
    pub fn signal(&self, node: &Node, signal: Signal) -> Result<()> {
        node.process()
            .as_ref()
            .with_context(|| format!("{} runs no speaker", node.name))?
            .signal(signal)
    }

    /// Sends a node's speaker a signal and waits until it has ended.
    pub fn end(&self, node: &Node, signal: Signal) -> Result<()> {
        self.signal(node, signal)?;
        self.await_end(node, Duration::from_secs(15))
    }

    /// Waits until a node's speaker has ended.
    pub fn await_end(&self, node: &Node, limit: Duration) -> Result<()> {
        let slot = node.process().take();
        slot.map_or(Ok(()), |process| process.wait(limit).map(drop))
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node `n<number>`.
    pub fn node(&self, number: usize) -> Result<&Node> {
        number
            .checked_sub(1)
            .and_then(|index| self.nodes.get(index))
            .with_context(|| format!("the lab has no node n{number}"))
    }

    /// How many sessions there are, each counted at both its ends.
    pub fn sessions(&self) -> usize {
        let all = self.nodes.iter().map(|node| self.neighbors(node).len());
        all.sum()
    }

    /// The namespace with the bridge, 10.0.0.254 on the nodes' link.
    pub fn bridge(&self) -> String {
        self.estate.namespace("br")
    }

    /// What the lab owns.
    pub fn estate(&self) -> &Estate {
        &self.estate
    }

    /// BIRD's control socket of a node.
    pub fn control(&self, node: &Node) -> PathBuf {
        Speaker::control_path(self.estate.folder(), &node.name)
    }

    /// Asks a node's BIRD.
    pub fn birdc(&self, node: &Node, question: &str) -> Result<Vec<String>> {
        birdc::ask(&self.control(node), question)
    }

    /// Whether every BIRD says that all its sessions are Established; the error names one that is
    /// not.
    pub fn established(&self) -> Result<()> {
        for node in &self.nodes {
            if let Some(process) = node.process().as_ref() {
                process.must_run()?;
            }
        }
        for node in self.nodes.iter().filter(|node| node.speaker.is_bird()) {
            let sessions = birdc::sessions(&self.control(node))?;
            let missing = sessions.iter().find(|(_, info)| *info != "Established");
            if let Some((name, info)) = missing {
                return Err(anyhow!("{name} of {}: {info}", node.name));
            }
            ensure!(
                sessions.len() == self.neighbors(node).len(),
                "{} has no sessions yet",
                node.name
            );
        }
        Ok(())
    }

    /// Waits for [`Lab::established`].
    pub fn await_established(&self, limit: Duration) -> Result<()> {
        wait::soon("every session Established", limit, || self.established())
    }

    /// Whether the pod behind `from` reaches the pod behind `to`: a connection to a closed port is
    /// answered.
    pub fn pod_reaches(&self, from: &Node, to: &Node) -> Result<()> {
        let address = SocketAddr::from((to.pod, 9));
        let answer = netns::inside(&from.pod_namespace, || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1))
        })?;
        match answer {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error).with_context(|| format!("pod of {} to {}", from.name, to.pod)),
            Ok(_) => bail!("somebody listens on {address}"),
        }
    }

    /// Waits for [`Lab::pod_reaches`].
    pub fn await_pod_reaches(&self, from: &Node, to: &Node, limit: Duration) -> Result<()> {
        wait::soon("pods reach each other", limit, || {
            self.pod_reaches(from, to)
        })
    }

    /// How many ICMP echoes the pod behind a node was asked.
    pub fn echoes(&self, node: &Node) -> Result<usize> {
        let read = || fs::read_to_string("/proc/thread-self/net/snmp");
        let text = netns::inside(&node.pod_namespace, read)??;
        let mut icmp = text.lines().filter(|line| line.starts_with("Icmp:"));
        let (names, values) = icmp.next().zip(icmp.next()).context("no ICMP counters")?;
        let mut pairs = names.split(' ').zip(values.split(' '));
        let echoes = pairs.find(|(name, _)| *name == "InEchos");
        Ok(echoes.context("no count of echoes")?.1.parse()?)
    }

    /// Leaves everything running: speakers, namespaces, folder.
    pub fn keep(mut self) -> Result<()> {
        for node in &self.nodes {
            if let Some(process) = node.process().as_ref() {
                process.release();
            }
        }
        self.estate.keep()
    }
}
