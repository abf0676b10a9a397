//! BGP speakers: what each is called, how it is configured for the lab's mesh, how it is started.

mod bird;
mod bird2;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::programs;

/// The AS that Calico gives every node.
pub const ASN: u32 = 64512;

/// A kind of speaker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Speaker {
    /// BIRD 1.6.8, what Calico's is a fork of.
    #[default]
    Bird,
    /// BIRD 2.
    Bird2,
    /// FRR's bgpd, without zebra.
    Frr,
    /// `GoBGP`.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
    /// `ExaBGP`.
    Exabgp,
}

/// How the mesh speaks.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Hold time in seconds; none leaves it at what Calico leaves it: BIRD's 240.
    pub hold: Option<u16>,
    /// Whether graceful restart is negotiated, as Calico does.
    pub graceful_restart: bool,
    /// Whether BIRD starts with `-R`, as Calico does.
    pub recover: bool,
    /// How long BIRD asks its peers to keep its routes, in seconds; none leaves it at 120.
    pub restart_time: Option<u16>,
    /// How long a BIRD that recovers waits for its peers, in seconds; none leaves it at 240.
    pub recovery_wait: Option<u16>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            hold: None,
            graceful_restart: true,
            recover: true,
            restart_time: None,
            recovery_wait: None,
        }
    }
}

/// What a speaker's configuration says about one peer.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether we wait for it to connect.
    pub passive: bool,
    /// What we are to one another.
    pub relation: Relation,
}

/// What two neighbors are to one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relation {
    /// Nodes of a full mesh.
    Mesh,
    /// The neighbor is a client of ours (RFC 4456).
    Client,
    /// The neighbor is a route reflector, whose client we are or who reflects beside us.
    Reflector,
}

impl Neighbor {
    /// Calico's rule: passive towards addresses that are greater as *strings*.
    pub fn of(own: Ipv4Addr, address: Ipv4Addr) -> Self {
        Self {
            address,
            passive: address.to_string() > own.to_string(),
            relation: Relation::Mesh,
        }
    }

    /// One that is configured by name, as route reflectors are. Calico lets both sides dial then; where
    /// both do at once BIRD backs off for up to 30 s, so that here one side waits, too.
    pub fn named(own: Ipv4Addr, address: Ipv4Addr, relation: Relation) -> Self {
        Self {
            relation,
            ..Self::of(own, address)
        }
    }

    /// Its protocol's name in BIRD, as Calico names it.
    pub fn protocol(&self) -> String {
        let kind = match self.relation {
            Relation::Mesh => "Mesh",
            Relation::Client | Relation::Reflector => "Node",
        };
        format!("{kind}_{}", self.address.to_string().replace('.', "_"))
    }
}

/// What a speaker's configuration needs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// Its AS; its peers are of [`ASN`].
    pub asn: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its pods' block.
    pub block: String,
    /// The others.
    pub neighbors: Vec<Neighbor>,
    /// Further BIRD configuration, appended.
    pub extra: String,
}

impl Speaker {
    /// The name of its process, as the kernel shows it.
    pub const fn comm(self) -> &'static str {
        match self {
            Self::Bird | Self::Bird2 => "bird",
            Self::Frr | Self::Openbgpd => "bgpd",
            Self::Gobgp => "gobgpd",
            Self::Exabgp => "exabgp",
        }
    }

    /// What it is called in a story.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bird => "BIRD 1.6",
            Self::Bird2 => "BIRD 2",
            Self::Frr => "FRR bgpd",
            Self::Gobgp => "GoBGP",
            Self::Openbgpd => "OpenBGPD",
            Self::Exabgp => "ExaBGP",
        }
    }

    /// Whether it has BIRD's control socket.
    pub const fn is_bird(self) -> bool {
        matches!(self, Self::Bird | Self::Bird2)
    }

    /// Where its configuration is.
    pub fn config_path(self, folder: &Path, node: &str) -> PathBuf {
        folder.join(format!("{node}.conf"))
    }

    /// Where BIRD's control socket is.
    pub fn control_path(folder: &Path, node: &str) -> PathBuf {
        folder.join(format!("{node}.ctl"))
    }

    /// Writes its configuration.
    pub fn configure(self, folder: &Path, identity: &Identity, manners: Manners) -> Result<()> {
        let text = match self {
            Self::Bird => bird::config(identity, manners),
            Self::Bird2 => bird2::config(identity, manners),
            Self::Frr => frr::config(identity, manners),
            Self::Gobgp => gobgp::config(identity, manners),
            Self::Openbgpd => openbgpd::config(folder, identity, manners),
            Self::Exabgp => exabgp::config(identity, manners),
        };
        let path = self.config_path(folder, &identity.node);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The command that runs it in the foreground.
    pub fn command(self, folder: &Path, node: &str, manners: Manners) -> Result<Command> {
        let config = self.config_path(folder, node);
        Ok(match self {
            Self::Bird | Self::Bird2 => {
                let package = if self == Self::Bird { "bird" } else { "bird2" };
                let mut command = programs::find(package, "bird")?.command();
                if manners.recover {
                    command.arg("-R");
                }
                command
                    .arg("-s")
                    .arg(Self::control_path(folder, node))
                    .args(["-d", "-c"]);
                command.arg(config);
                command
            }
            Self::Frr => frr::command(folder, node, &config)?,
            Self::Openbgpd => openbgpd::command(folder, node, &config)?,
            Self::Exabgp => exabgp::command(&config)?,
            Self::Gobgp => {
                let mut command = programs::find("gobgpd", "gobgpd")?.command();
                command
                    .args(["--api-hosts=127.0.0.1:50051", "--pprof-disable", "-f"])
                    .arg(config);
                command
            }
        })
    }
}
