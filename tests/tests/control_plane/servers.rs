//! etcd and Kubernetes' servers on loopback, as `cargo xtask setup --long` leaves them in the cache, and
//! what the API server wrote down of an account's requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use observer_tests::{agent::free_address, estate::Estate, process::Process, programs, wait};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

/// How long a server has to come up.
const COMES_UP: Duration = Duration::from_mins(2);

/// A running control plane. Gone on drop.
pub struct Servers {
    estate: Estate,
    address: SocketAddr,
    etcd_address: SocketAddr,
    admin: String,
    api: Option<Process>,
    controllers: Vec<Process>,
    _etcd: Process,
}

impl Servers {
    pub fn start() -> Result<Self> {
        let estate = Estate::found()?;
        certificates(estate.folder())?;
        let admin = secret()?;
        let tokens = format!("{admin},admin,admin,system:masters\n");
        fs::write(estate.folder().join("tokens.csv"), tokens)?;
        let (etcd_address, etcd) = start_etcd(&estate)?;
        let mut servers = Self {
            address: free_address()?,
            etcd_address,
            admin,
            api: None,
            controllers: Vec::new(),
            _etcd: etcd,
            estate,
        };
        let policy = servers.kubeconfig(&servers.admin);
        fs::write(servers.path("admin.kubeconfig"), policy)?;
        servers.start_api()?;
        servers.start_controllers()?;
        Ok(servers)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.estate.folder().join(name)
    }

    /// A kubeconfig for whom `token` names.
    pub fn kubeconfig(&self, token: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority": self.path("ca.crt"),
            } }],
            "users": [{ "name": "test", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        })
        .to_string()
    }

    /// A client that may do all.
    pub async fn client(&self) -> Result<Client> {
        let config = Kubeconfig::from_yaml(&self.kubeconfig(&self.admin))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Starts the API server, which writes down what [`Account`]s ask.
    pub fn start_api(&mut self) -> Result<()> {
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                { "level": "Metadata", "userGroups": ["system:serviceaccounts:bgp-observer"] },
                { "level": "None" },
            ],
        });
        fs::write(self.path("audit-policy.yaml"), policy.to_string())?;
        let mut command = programs::find("kubernetes", "kube-apiserver")?.command();
        let options: BTreeMap<&str, String> = BTreeMap::from([
            ("etcd-servers", format!("http://{}", self.etcd_address)),
            ("bind-address", self.address.ip().to_string()),
            ("secure-port", self.address.port().to_string()),
            // Nobody connects to it; it must not be one of loopback.
            ("advertise-address", "192.0.2.1".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("tls-cert-file", self.shown("server.crt")),
            ("tls-private-key-file", self.shown("server.key")),
            ("token-auth-file", self.shown("tokens.csv")),
            ("anonymous-auth", "false".to_owned()),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("service-cluster-ip-range", "198.51.100.0/24".to_owned()),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
            ("service-account-key-file", self.shown("accounts.pub")),
            (
                "service-account-signing-key-file",
                self.shown("accounts.key"),
            ),
            ("audit-policy-file", self.shown("audit-policy.yaml")),
            ("audit-log-path", self.shown("audit.jsonl")),
        ]);
        command.args(
            options
                .iter()
                .map(|(name, value)| format!("--{name}={value}")),
        );
        self.api = Some(Process::start(
            &self.estate,
            "kube-apiserver",
            None,
            &mut command,
            None,
        )?);
        wait::soon("the API server is ready", COMES_UP, || {
            self.api.as_ref().context("not started")?.must_run()?;
            self.kubectl(&["get", "--raw", "/readyz"])
        })?;
        Ok(())
    }

    /// What the API server wrote last.
    pub fn last_words(&self) -> String {
        let words = self.api.as_ref().map(Process::last_words);
        words.unwrap_or_else(|| "the API server does not run".to_owned())
    }

    /// Kills the API server.
    pub fn kill_api(&mut self) {
        self.api = None;
    }

    fn start_controllers(&mut self) -> Result<()> {
        let common = |name| -> Result<Command> {
            let mut command = programs::find("kubernetes", name)?.command();
            command.arg(format!("--kubeconfig={}", self.shown("admin.kubeconfig")));
            command.args(["--leader-elect=false", "--port=0", "--secure-port=0"]);
            Ok(command)
        };
        let mut controllers = common("kube-controller-manager")?;
        // Those that this needs: without kubelets, the others would take the nodes for dead.
        controllers.arg("--controllers=daemonset,namespace,serviceaccount,serviceaccount-token");
        let key = self.shown("accounts.key");
        controllers.arg(format!("--service-account-private-key-file={key}"));
        controllers.arg(format!("--root-ca-file={}", self.shown("ca.crt")));
        let mut scheduler = common("kube-scheduler")?;
        for (name, command) in [
            ("kube-controller-manager", &mut controllers),
            ("kube-scheduler", &mut scheduler),
        ] {
            let process = Process::start(&self.estate, name, None, command, None)?;
            self.controllers.push(process);
        }
        Ok(())
    }

    /// Ends controllers and scheduler.
    pub fn kill_controllers(&mut self) {
        self.controllers.clear();
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// What kubectl prints, asked by who may do all.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        for process in &self.controllers {
            process.must_run()?;
        }
        let output = Command::new(kubectl())
            .args(arguments)
            .env("KUBECONFIG", self.path("admin.kubeconfig"))
            // For what it remembers of the API.
            .env("HOME", self.estate.folder())
            .output()
            .context("cannot start kubectl: `cargo xtask setup`")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Writes a file that kubectl can be given.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// What accounts of the agent's namespace have asked so far.
    pub fn asked(&self) -> Result<Vec<Asked>> {
        let log = fs::read_to_string(self.path("audit.jsonl")).unwrap_or_default();
        // The last line may be half written.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(Asked::read).collect()
    }
}

/// A request of an account.
#[derive(Clone, Debug)]
pub struct Asked {
    pub verb: String,
    pub resource: String,
    pub uri: String,
    /// It has been answered whole; a watch that runs has not.
    pub complete: bool,
}

impl Asked {
    fn read(line: &str) -> Result<Self> {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let text = |pointer: &str| {
            let text = entry.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Ok(Self {
            verb: text("/verb"),
            resource: text("/objectRef/resource"),
            uri: text("/requestURI"),
            complete: text("/stage") == "ResponseComplete",
        })
    }
}

/// What was `asked`, as verbs of resources.
pub fn verbs(asked: &[Asked]) -> BTreeSet<(String, String)> {
    let verbs = asked.iter();
    verbs
        .map(|asked| (asked.resource.clone(), asked.verb.clone()))
        .collect()
}

/// The kubectl that checks the manifests.
pub fn kubectl() -> PathBuf {
    programs::cache().join("python/bin/kubectl")
}

fn start_etcd(estate: &Estate) -> Result<(SocketAddr, Process)> {
    let (clients, peers) = (free_address()?, free_address()?);
    let mut command = programs::find("etcd-server", "etcd")?.command();
    command.arg("--data-dir").arg(estate.folder().join("etcd"));
    for (option, address) in [
        ("listen-client-urls", clients),
        ("advertise-client-urls", clients),
        ("listen-peer-urls", peers),
        ("initial-advertise-peer-urls", peers),
    ] {
        command.arg(format!("--{option}=http://{address}"));
    }
    command.arg(format!("--initial-cluster=default=http://{peers}"));
    // Nothing here is to outlive the test.
    command.arg("--unsafe-no-fsync");
    let etcd = Process::start(estate, "etcd", None, &mut command, None)?;
    wait::soon("etcd is ready", COMES_UP, || {
        etcd.must_run()?;
        observer_tests::http::get(clients, "/health")
    })?;
    Ok((clients, etcd))
}

/// An authority, the server's certificate, and the keys that accounts' tokens are signed with.
fn certificates(folder: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    let server = server.signed_by(&key, &authority)?;
    let accounts = KeyPair::generate()?;
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("server.crt", server.pem()),
        ("server.key", key.serialize_pem()),
        ("accounts.pub", accounts.public_key_pem()),
        ("accounts.key", accounts.serialize_pem()),
    ] {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// A token that nobody else on this machine knows.
fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Fails unless the servers were made.
pub fn must_be_there() -> Result<()> {
    let servers = programs::find("kubernetes", "kube-apiserver");
    ensure!(
        servers.is_ok() && kubectl().is_file(),
        "no kube-apiserver in the cache: `cargo xtask setup --long` builds it"
    );
    Ok(())
}
