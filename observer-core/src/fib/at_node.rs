//! The doors through which the rest of a node reaches its forwarding.

use super::{World, burst};
use crate::{
    address::PeerAddress, bgp::Prefix, deadline::Due, event::forwarding::Forwarding, node::Node,
    notice::RouteNotice, turn::Turn,
};

impl Node {
    /// Takes in what was told of its forwarding.
    pub fn forward(&mut self, turn: &mut Turn<'_>, told: &Forwarding) {
        let Self {
            fib,
            peers,
            connections,
            name,
            ..
        } = self;
        let world = World {
            node: name,
            peers,
            connections,
        };
        fib.take_in(turn, world, told);
        fib.set_deadline(turn);
    }

    /// Something of its forwarding is due.
    pub fn forwarding_due(&mut self, turn: &mut Turn<'_>) {
        let Self {
            fib,
            peers,
            connections,
            name,
            speakers,
            ..
        } = self;
        let world = World {
            node: name,
            peers,
            connections,
        };
        fib.run_due(turn, world, speakers.may_program());
        fib.set_deadline(turn);
    }

    /// Of what the correlator was told, what the user is to know at once.
    pub fn tell_route(&mut self, turn: &mut Turn<'_>, notice: &RouteNotice) {
        burst::tell(turn, &self.name, notice);
    }

    /// `peer` announced or withdrew prefixes in messages that this node took at `turn.at`.
    pub fn hear_routes(
        &mut self,
        turn: &mut Turn<'_>,
        peer: PeerAddress,
        learned: &[(Prefix, bool)],
    ) {
        let Self {
            fib,
            peers,
            connections,
            name,
            ..
        } = self;
        let world = World {
            node: name,
            peers,
            connections,
        };
        for (prefix, announced) in learned {
            fib.hear(turn, world, peer, *prefix, !announced);
        }
        fib.set_deadline(turn);
    }

    /// The namespace is gone, and its routes with it.
    pub fn tear_down_forwarding(&mut self, turn: &mut Turn<'_>) {
        let Self {
            fib,
            peers,
            connections,
            name,
            ..
        } = self;
        let world = World {
            node: name,
            peers,
            connections,
        };
        fib.tear_down(turn, world);
        turn.deadlines.clear(Due::Fib(fib.netns));
    }
}
