//! The shipped Alertmanager example: a node that dies pages once, and what it does not explain pages
//! all the same.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use observer_tests::{agent::free_address, gate, http, programs, wait};
use serde_json::Value;

const PACKAGE: &str = "prometheus-alertmanager";
const SOON: Duration = Duration::from_secs(20);
const DEAD: usize = 3;

/// A notification: its receiver's path, and the names of its alerts.
type Message = (String, Vec<String>);

/// Takes one request and answers it.
fn take(stream: &TcpStream) -> Result<Message> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut length = 0;
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    (&*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let body: Value = serde_json::from_slice(&body)?;
    let alerts = body
        .pointer("/alerts")
        .and_then(Value::as_array)
        .context("no alerts")?;
    let name = |alert: &Value| {
        alert
            .pointer("/labels/alertname")?
            .as_str()
            .map(str::to_owned)
    };
    Ok((path, alerts.iter().filter_map(name).collect()))
}

/// A receiver of webhooks, as long as the test runs.
fn receiver() -> Result<(SocketAddr, Receiver<Message>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (sender, messages) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Ok(message) = take(&stream)
                && sender.send(message).is_err()
            {
                break;
            }
        }
    });
    Ok((address, messages))
}

/// Debian's Alertmanager reads its templates from /usr/share, wherever itself lies: where it is only
/// unpacked, it gets a /usr/share of its own.
fn program() -> Result<Command> {
    const ENTER: &str = "set -e; program=$1; shares=$2; shift 2
        mount -t tmpfs none /usr/share
        cp -r $shares /usr/share/prometheus
        exec $program \"$@\"";
    let found = programs::find(PACKAGE, "prometheus-alertmanager")?;
    let shares = found.path().with_file_name("../share/prometheus");
    if !shares.exists() || found.path().starts_with("/usr/bin") {
        return Ok(found.command());
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", ENTER, "sh"])
        .arg(found.path())
        .arg(shares);
    Ok(command)
}

/// Debian's Alertmanager. Gone on drop.
struct Alertmanager {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Alertmanager {
    /// With the shipped configuration, but quick and with `receiver` as the one to tell.
    fn start(receiver: SocketAddr) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bgp-observer-alerts-{}", process::id()));
        fs::create_dir_all(&folder)?;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR"));
        let shipped = shipped.join("../deploy/prometheus/alertmanager.yaml");
        let config = fs::read_to_string(shipped)?
            .replace("127.0.0.1:9099", &receiver.to_string())
            .replace("group_wait: 2m", "group_wait: 1s")
            .replace("group_wait: 90s", "group_wait: 3s")
            .replace("group_interval: 5m", "group_interval: 1s");
        ensure!(
            config.contains("wait: 1s")
                && config.contains("wait: 3s")
                && config.contains("interval: 1s"),
            "other waits"
        );
        let path = folder.join("alertmanager.yaml");
        fs::write(&path, config)?;
        let address = free_address()?;
        let child = program()?
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?)
            .spawn()?;
        let alertmanager = Self {
            child,
            folder,
            address,
        };
        wait::soon("Alertmanager ready", SOON, || {
            http::get(address, "/-/ready").with_context(|| {
                fs::read_to_string(alertmanager.folder.join("log")).unwrap_or_default()
            })
        })?;
        Ok(alertmanager)
    }

    /// Raises an alert with `labels`.
    fn raise(&self, labels: &[(&str, String)]) -> Result<()> {
        let mut command = programs::find(PACKAGE, "amtool")?.command();
        command.args(["alert", "add"]);
        command.args(labels.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(format!("--alertmanager.url=http://{}", self.address));
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "amtool: {said}");
        Ok(())
    }

    fn about_session(&self, name: &str, severity: &str, node: usize, peer: usize) -> Result<()> {
        self.raise(&[
            ("alertname", name.to_owned()),
            ("severity", severity.to_owned()),
            ("node", format!("n{node}")),
            ("peer", format!("10.0.0.{peer}")),
        ])
    }

    fn about_node(&self, name: &str, severity: &str, node: usize) -> Result<()> {
        self.raise(&[
            ("alertname", name.to_owned()),
            ("severity", severity.to_owned()),
            ("node", format!("n{node}")),
            ("subject", format!("n{node}")),
        ])
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_dead_node_among_ten_pages_once() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (receiver, messages) = receiver()?;
    let alertmanager = Alertmanager::start(receiver)?;
    alertmanager.raise(&[
        ("alertname", "BGPPeerLost".to_owned()),
        ("severity", "critical".to_owned()),
        ("state", "down".to_owned()),
        ("peer", format!("10.0.0.{DEAD}")),
        ("subject", format!("n{DEAD}")),
    ])?;
    alertmanager.about_node("BGPNodeIsolated", "critical", DEAD)?;
    alertmanager.about_node("BGPSpeakerEnded", "warning", DEAD)?;
    alertmanager.about_node("BGPObserverGone", "warning", DEAD)?;
    // What its nine peers say of it, and it of them.
    for other in (1..=10).filter(|other| *other != DEAD) {
        for (node, peer) in [(other, DEAD), (DEAD, other)] {
            alertmanager.about_session("CalicoBGPPeeringDown", "warning", node, peer)?;
            alertmanager.about_session("BGPSessionFlapped", "warning", node, peer)?;
        }
    }
    // Warnings wait for one second, pages for three: had any been sent, it would be here before.
    let (path, alerts) = messages.recv_timeout(SOON).context("nobody was told")?;
    ensure!(
        path == "/page" && alerts == ["BGPPeerLost"],
        "{path}: {alerts:?}"
    );

    // A session that none of this explains is told, and nothing else comes with it.
    alertmanager.about_session("CalicoBGPPeeringDown", "warning", 5, 6)?;
    let (path, alerts) = messages
        .recv_timeout(SOON)
        .context("not told of another session")?;
    ensure!(
        path == "/tell" && alerts == ["CalicoBGPPeeringDown"],
        "{path}: {alerts:?}"
    );
    Ok(())
}
