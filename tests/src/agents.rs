//! The agents of a lab as one: what several say, of which each sees its own node, put together.

use std::{
    slice,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Result, bail};
use observer_core::{
    change::ChangeRecord,
    incident::Incident,
    peer::{Flap, PeerView},
};

use crate::{
    agent::{Agent, Told},
    lab::Lab,
    process::Process,
    rights::Overlay,
};

/// All agents of a lab: one that sees every node, or one on each.
#[derive(Clone, Copy, Debug)]
pub struct Agents<'a> {
    /// Each.
    pub all: &'a [Agent],
    /// What they may, and so what must be told.
    pub overlay: Overlay,
}

impl<'a> Agents<'a> {
    /// One that may everything.
    pub fn one(agent: &'a Agent) -> Self {
        Self {
            all: slice::from_ref(agent),
            overlay: Overlay::Ebpf,
        }
    }

    /// `status -o json` of each.
    pub fn peers(self) -> Result<Vec<PeerView>> {
        self.each(Agent::peers)
    }

    /// `flaps -o json` of each.
    pub fn flaps(self) -> Result<Vec<Flap>> {
        self.each(Agent::flaps)
    }

    /// Their incidents, oldest first.
    pub fn incidents(self) -> Result<Vec<Incident>> {
        let mut incidents = self.each(Agent::incidents)?;
        incidents.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(incidents)
    }

    /// `events --follow -o json` of each: what they remember, then what happens.
    pub fn follow(self, lab: &Lab) -> Result<Events> {
        let (sender, receiver) = mpsc::channel();
        let processes = self.all.iter();
        let processes = processes.map(|agent| agent.follow_into(lab, sender.clone()));
        Ok(Events {
            _processes: processes.collect::<Result<_>>()?,
            receiver,
        })
    }

    /// The last lines of their logs.
    pub fn last_words(self) -> String {
        let words = self.all.iter().map(|agent| agent.process().last_words());
        words.collect::<Vec<_>>().join("\n\n")
    }

    fn each<T>(self, ask: impl Fn(&Agent) -> Result<Vec<T>>) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for agent in self.all {
            all.extend(ask(agent)?);
        }
        Ok(all)
    }
}

/// Changes as they come.
#[derive(Debug)]
pub struct Events {
    receiver: Receiver<Result<Told>>,
    _processes: Vec<Process>,
}

impl Events {
    /// The next change within `limit`, if there is one.
    pub fn next(&self, limit: Duration) -> Result<Option<Told>> {
        match self.receiver.recv_timeout(limit) {
            Ok(told) => told.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("every `events --follow` ended"),
        }
    }

    /// All changes until nothing came for `quiet`.
    pub fn drain(&self, quiet: Duration) -> Result<Vec<ChangeRecord>> {
        let mut records = Vec::new();
        while let Some(told) = self.next(quiet)? {
            records.push(told.record);
        }
        Ok(records)
    }
}
