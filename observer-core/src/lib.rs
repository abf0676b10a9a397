//! The pure heart of bgp-observer: typed events go in, changes come out.
//!
//! No clock, no socket, no file, no environment and no failure: time, configuration and everything
//! the outside knows are arguments, and bad input is a counted fact. What order the same events are
//! applied in decides everything, so that a recorded file replays bit for bit.
//!
//! One event's way: [`Observer::apply`] runs what is due (`deadline`), finds the `node` the event
//! belongs to, and there `sockets` decides whose connection a socket is. A `connection` keeps bytes
//! and the `evidence` of its end; `sessions` makes of its steps what they mean for the peer's
//! `session`: up, down, counted, amended. Segments come by `tap` to the connection's `wire`, which
//! reads them; what both sides said is in the peer's `exchange`, its routes in `rib`, its graceful
//! restarts in `restart` and this node's own in `held`, its hold timer in `hold`. `known` is how peers come and go, `stranger` where those
//! wait who are none yet, `speaker` what became of the local BGP processes. A `turn` is what each of
//! them may use meanwhile; `view` shows the result.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bgp;
pub mod bgp_view;
pub mod cause;
pub mod change;
pub mod cluster;
pub mod config;
pub mod conversation;
pub mod event;
pub mod incident;
pub mod message_counts;
pub mod observer;
pub mod payload;
pub mod peer;
pub mod reach;
pub mod record;
pub mod replay;
pub mod route_view;
pub mod safety;
pub mod stream;
pub mod time;
pub mod words;

mod address;
mod announcers;
mod clue;
mod connection;
mod deadline;
mod early;
mod evidence;
pub mod exchange;
mod failure;
pub mod fib;
mod held;
mod hold;
mod inventory;
mod known;
mod loss;
mod node;
mod notice;
mod restart;
mod rib;
mod session;
mod sessions;
mod sockets;
mod speaker;
mod stranger;
mod tap;
pub mod terms;
pub mod topology;
mod totals;
mod turn;
mod view;
mod wire;

pub use observer::Observer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_wire;
#[cfg(test)]
mod tests_cluster;
#[cfg(test)]
mod tests_exchange;
#[cfg(test)]
mod tests_fib;
#[cfg(test)]
mod tests_fib_join;
#[cfg(test)]
mod tests_fib_many;
#[cfg(test)]
mod tests_fib_vrf;
#[cfg(test)]
mod tests_known;
#[cfg(test)]
mod tests_polled;
#[cfg(test)]
mod tests_properties;
#[cfg(test)]
mod tests_sessions;
#[cfg(test)]
mod tests_size;
#[cfg(test)]
mod tests_wire;
#[cfg(test)]
mod tests_wire_properties;
