//! Which namespaces are observed, under which number, and which come and go.
//!
//! A namespace lives as long as anything holds it. So when its name disappears, what we hold of it
//! is let go at once; the kernel filter stays for a grace, because the sockets in it end only then,
//! and how they end is evidence.

use std::{sync::Arc, time::Duration};

use observer_core::{event::NetnsId, time::Timestamp};
use tracing::{debug, warn};

use crate::{config::Config, source::netns::Netns};

/// How long after its name disappeared a namespace still counts as observed.
const GRACE: Duration = Duration::from_secs(3);

/// What has to be done about a namespace.
#[derive(Debug)]
pub enum Step {
    /// Observe it from now on.
    Begin {
        /// Its number.
        netns: NetnsId,
        /// Its node.
        node: String,
        /// The namespace.
        handle: Arc<Netns>,
    },
    /// Its name is gone: let go of it.
    LetGo {
        /// Its number.
        netns: NetnsId,
    },
    /// Its grace is over: say that it is gone.
    End {
        /// Its number.
        netns: NetnsId,
        /// Its node.
        node: String,
        /// Its inode, to be taken out of the filter; none when the inode already means another.
        inode: Option<u32>,
    },
}

#[derive(Debug)]
struct Wanted {
    /// None: the agent's own.
    name: Option<String>,
    node: String,
    observed: Option<(NetnsId, Arc<Netns>)>,
    /// The last failure was told.
    told: bool,
}

#[derive(Debug)]
struct Leaving {
    netns: NetnsId,
    node: String,
    inode: u32,
    until: Timestamp,
}

/// Every namespace of the configuration, there or not.
#[derive(Debug)]
pub struct Namespaces {
    wanted: Vec<Wanted>,
    leaving: Vec<Leaving>,
    last: NetnsId,
}

impl Namespaces {
    /// Those that `config` names; none is open yet.
    pub fn new(config: &Config) -> Self {
        let own = config.node.iter().map(|node| (None, node.clone()));
        let named = config
            .netns
            .iter()
            .map(|spec| (Some(spec.netns.clone()), spec.node.clone()));
        Self {
            wanted: own
                .chain(named)
                .map(|(name, node)| Wanted {
                    name,
                    node,
                    observed: None,
                    told: false,
                })
                .collect(),
            leaving: Vec::new(),
            last: NetnsId(0),
        }
    }

    /// The names of all nodes, there or not.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().map(|wanted| wanted.node.as_str())
    }

    /// Those that are there.
    pub fn observed(&self) -> impl Iterator<Item = (NetnsId, &Arc<Netns>)> {
        self.wanted
            .iter()
            .filter_map(|wanted| wanted.observed.as_ref())
            .map(|(netns, handle)| (*netns, handle))
    }

    /// The node of `netns`, if it is there.
    pub fn node(&self, netns: NetnsId) -> Option<&str> {
        self.wanted
            .iter()
            .find(|wanted| matches!(&wanted.observed, Some((number, _)) if *number == netns))
            .map(|wanted| wanted.node.as_str())
    }

    /// Looks at all names again and says what follows, in order.
    pub fn poll(&mut self, now: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        self.find_gone(now, &mut steps);
        self.end_graces(now, &mut steps);
        self.find_new(&mut steps);
        steps
    }

    fn find_gone(&mut self, now: Timestamp, steps: &mut Vec<Step>) {
        for wanted in &mut self.wanted {
            if let Some((netns, handle)) = wanted
                .observed
                .take_if(|(_, handle)| wanted.name.is_some() && !handle.still_there())
            {
                steps.push(Step::LetGo { netns });
                self.leaving.push(Leaving {
                    netns,
                    node: wanted.node.clone(),
                    inode: handle.inode(),
                    until: now.after(GRACE),
                });
            }
        }
    }

    fn end_graces(&mut self, now: Timestamp, steps: &mut Vec<Step>) {
        for gone in self.leaving.extract_if(.., |leaving| leaving.until <= now) {
            steps.push(Step::End {
                netns: gone.netns,
                node: gone.node,
                inode: Some(gone.inode),
            });
        }
    }

    fn find_new(&mut self, steps: &mut Vec<Step>) {
        for wanted in &mut self.wanted {
            if wanted.observed.is_some() {
                continue;
            }
            let opened = match &wanted.name {
                None => Netns::own(),
                Some(name) => Netns::named(name),
            };
            let handle = match opened {
                Ok(handle) => Arc::new(handle),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    let node = &wanted.node;
                    if wanted.told {
                        debug!(node, "cannot observe yet: {error:#}");
                    } else {
                        warn!(node, "cannot observe yet, will go on trying: {error:#}");
                    }
                    wanted.told = true;
                    continue;
                }
            };
            // The same node again, or the same inode: the old one has to be over first.
            for gone in self.leaving.extract_if(.., |old| {
                old.node == wanted.node || old.inode == handle.inode()
            }) {
                steps.push(Step::End {
                    netns: gone.netns,
                    node: gone.node,
                    inode: (gone.inode != handle.inode()).then_some(gone.inode),
                });
            }
            self.last = NetnsId(self.last.0 + 1);
            wanted.told = false;
            wanted.observed = Some((self.last, Arc::clone(&handle)));
            steps.push(Step::Begin {
                netns: self.last,
                node: wanted.node.clone(),
                handle,
            });
        }
    }
}
