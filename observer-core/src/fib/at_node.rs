//! The doors through which the rest of a node reaches its forwarding.

use super::{Fib, World, burst};
use crate::{
    address::PeerAddress, bgp::Prefix, deadline::Due, event::forwarding::Forwarding, node::Node,
    notice::RouteNotice, time::Timestamp, turn::Turn,
};

impl Node {
    /// Its forwarding, and what that is compared with.
    const fn forwarding(&mut self) -> (&mut Fib, World<'_>) {
        let world = World {
            node: self.name.as_str(),
            peers: &self.peers,
            announcers: &self.announcers,
            connections: &self.connections,
        };
        (&mut self.fib, world)
    }

    /// Takes in what was told of its forwarding.
    pub fn forward(&mut self, turn: &mut Turn<'_>, told: &Forwarding) {
        let (fib, world) = self.forwarding();
        fib.take_in(turn, world, told);
        fib.set_deadline(turn);
    }

    /// Something of its forwarding is due.
    pub fn forwarding_due(&mut self, turn: &mut Turn<'_>) {
        let programs = self.speakers.may_program();
        let (fib, world) = self.forwarding();
        fib.run_due(turn, world, programs);
        fib.set_deadline(turn);
    }

    /// Of what the correlator was told, what the user is to know at once.
    pub fn tell_route(&mut self, turn: &mut Turn<'_>, notice: &RouteNotice) {
        burst::tell(turn, &self.name, notice);
    }

    /// `peer` announced or withdrew prefixes in messages that arrived at `arrived` and that this node
    /// took at `turn.at`.
    pub fn hear_routes(
        &mut self,
        turn: &mut Turn<'_>,
        peer: PeerAddress,
        arrived: Timestamp,
        learned: &[(Prefix, bool)],
    ) {
        self.announcers.learn(&self.peers, peer, learned);
        let (fib, world) = self.forwarding();
        for (prefix, announced) in learned {
            fib.hear(turn, world, (peer, arrived), *prefix, !announced);
        }
        fib.set_deadline(turn);
    }

    /// The namespace is gone, and its routes with it.
    pub fn tear_down_forwarding(&mut self, turn: &mut Turn<'_>) {
        let (fib, world) = self.forwarding();
        fib.tear_down(turn, world);
        turn.deadlines.clear(Due::Fib(fib.netns));
    }
}
