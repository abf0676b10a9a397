//! What can be done to a mesh, and what the agent must say then: both as data.

mod act;
mod admin_reset;
mod cast;
mod disable;
mod expected;
mod firewall;
mod kill;
mod kill_for_good;
mod linkdown;
mod loss;
mod no_recover;
mod record;
mod recovery_wait;
mod reflector;
mod refuse;
mod reset;
mod restart;
mod second_restart;
mod switch_port;
pub mod table;
mod withdraw;
mod withdraw_alive;
mod wrong_as;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

pub use self::{
    act::{Act, FOREIGN_ASN, spare},
    cast::{Cast, Session},
    expected::{Expected, ExpectedFlap},
    loss::{ExpectedLoss, Extent},
    record::ExpectedIncident,
};
use crate::{
    lab::{Lab, Plan},
    programs,
    rights::Overlay,
};

/// The scenarios. The victim is n2.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Scenario {
    /// n2's speaker gets SIGTERM and is back after 3 s.
    Restart,
    /// n2's speaker gets SIGKILL and is back after 3 s.
    Kill,
    /// The same with graceful restart off.
    KillWithoutGr,
    /// n2's speaker gets SIGKILL and stays away: its peers keep its routes for 8 s.
    KillForGood,
    /// n2's speaker gets SIGKILL and is back after 3 s without `-R`: it forgot what it had programmed.
    NoRecover,
    /// n2's speaker gets SIGKILL again while n1 still keeps its routes from the first time.
    SecondRestart,
    /// n2's firewall drops BGP in both directions until every session fell; what the old connections
    /// still had to say comes after the new ones are up.
    Firewall,
    /// n2's speaker ends for good: who dials it is refused.
    Refuse,
    /// n2's kernel resets its sessions.
    Reset,
    /// n2's uplink is down for 4 s.
    Linkdown,
    /// n2's speaker is started again with an AS that nobody expects of it.
    WrongAs,
    /// n2's BIRD restarts its sessions (`birdc restart`).
    AdminReset,
    /// n2's BIRD has its sessions disabled for 4 s (`birdc disable`).
    Disable,
    /// The switch port of n2 is down for 12 s: every table looks healthy.
    SwitchPort,
    /// n2 announces one more block, withdraws it and announces it again: nothing is wrong.
    Withdraw,
    /// n2 withdraws the block in which its pod lives, and announces it again after 6 s.
    WithdrawAlive,
    /// n2 reflects the routes of all others; its speaker gets SIGKILL and is back after 3 s.
    ReflectorKill,
    /// The same with SIGTERM: the routes of all clients go at once.
    ReflectorRestart,
    /// One of two route reflectors, n2, gets SIGTERM: the other one holds the clients' routes.
    ReflectorOfTwo,
    /// n2 reboots while n3 is away: its BIRD waits 20 s for n3 before it announces or programs anything.
    RecoveryWait,
}

/// What is done, in order, and what must follow.
#[derive(Debug)]
pub struct Script {
    /// In a line.
    pub title: &'static str,
    /// What is done.
    pub steps: Vec<Step>,
    /// What must follow.
    pub expected: Expected,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When.
    pub when: When,
    /// To which node, by its number.
    pub node: usize,
    /// What.
    pub act: Act,
}

/// When something is done.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// This long after the first step.
    After(Duration),
    /// This long after the step before.
    Then(Duration),
    /// As soon as this node's session with the victim is up again.
    Back(usize),
    /// As soon as every expected flap is recorded.
    Fallen,
    /// As soon as every expected flap is over: all sessions are up again.
    Risen,
}

impl Scenario {
    /// Its script for this lab, under agents with the rights of `overlay`.
    pub fn script(self, lab: &Lab, overlay: Overlay) -> Result<Script> {
        let cast = Cast::of(lab, overlay)?;
        // Said before anything is done, not in the middle.
        if self == Self::Firewall {
            programs::find("nftables", "nft")?;
        }
        ensure!(
            cast.victim.speaker.is_bird() || !self.needs_bird(),
            "{} has no `birdc` and recovers in another way: that scenario needs a BIRD",
            cast.victim.speaker.title()
        );
        Ok(match self {
            Self::Restart => restart::script(&cast),
            Self::Kill | Self::KillWithoutGr => kill::script(&cast),
            Self::KillForGood => kill_for_good::script(&cast),
            Self::NoRecover => no_recover::script(&cast),
            Self::SecondRestart => second_restart::script(&cast),
            Self::Firewall => firewall::script(&cast),
            Self::Refuse => refuse::script(&cast),
            Self::Reset => reset::script(&cast),
            Self::Linkdown => linkdown::script(&cast),
            Self::WrongAs => wrong_as::script(&cast),
            Self::AdminReset => admin_reset::script(&cast),
            Self::Disable => disable::script(&cast),
            Self::SwitchPort => switch_port::script(&cast),
            Self::Withdraw => withdraw::script(&cast),
            Self::WithdrawAlive => withdraw_alive::script(&cast),
            Self::ReflectorKill => reflector::killed(&cast),
            Self::ReflectorRestart => reflector::restarted(&cast),
            Self::ReflectorOfTwo => reflector::one_of_two(&cast),
            Self::RecoveryWait => recovery_wait::script(&cast),
        })
    }

    const fn needs_bird(self) -> bool {
        matches!(
            self,
            Self::AdminReset
                | Self::Disable
                | Self::Withdraw
                | Self::WithdrawAlive
                | Self::NoRecover
                | Self::SecondRestart
                | Self::RecoveryWait
                | Self::ReflectorKill
                | Self::ReflectorRestart
                | Self::ReflectorOfTwo
        )
    }

    /// What it needs of a lab, quick timers included unless the plan is to leave them alone.
    #[must_use]
    pub fn plan(self, mut plan: Plan) -> Plan {
        let quick = |seconds| (!plan.own_timers).then_some(seconds);
        let manners = &mut plan.manners;
        match self {
            Self::Firewall => manners.hold = manners.hold.or(quick(9)),
            Self::KillWithoutGr => manners.graceful_restart = false,
            Self::KillForGood => manners.restart_time = manners.restart_time.or(quick(8)),
            Self::Restart
            | Self::Kill
            | Self::NoRecover
            | Self::SecondRestart
            | Self::Refuse
            | Self::Reset
            | Self::Linkdown
            | Self::WrongAs
            | Self::AdminReset
            | Self::Disable
            | Self::SwitchPort
            | Self::Withdraw
            | Self::WithdrawAlive => {}
            Self::ReflectorKill | Self::ReflectorRestart => plan.reflectors = 1,
            Self::ReflectorOfTwo => {
                plan.reflectors = 2;
                plan.nodes = plan.nodes.max(4);
            }
            Self::RecoveryWait => manners.recovery_wait = manners.recovery_wait.or(quick(20)),
        }
        plan
    }
}

/// The victim's number.
const VICTIM: usize = 2;

/// `act` is done to the victim, so many seconds after the first step.
const fn at(seconds: u64, act: Act) -> Step {
    step(When::After(Duration::from_secs(seconds)), act)
}

/// `act` is done to the victim.
const fn step(when: When, act: Act) -> Step {
    Step {
        when,
        node: VICTIM,
        act,
    }
}

impl Step {
    /// The same done to another node.
    const fn to(mut self, node: usize) -> Self {
        self.node = node;
        self
    }
}
