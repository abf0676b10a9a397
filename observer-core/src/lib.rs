//! The pure heart of bgp-observer: typed events go in, changes come out.
//!
//! No clock, no socket, no file, no environment and no failure: time, configuration and everything
//! the outside knows are arguments, and bad input is a counted fact. What order the same events are
//! applied in decides everything, so that a recorded file replays bit for bit.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cause;
pub mod change;
pub mod config;
pub mod event;
pub mod observer;
pub mod peer;
pub mod record;
pub mod replay;
pub mod time;

mod address;
mod connection;
mod deadline;
mod evidence;
mod inventory;
mod known;
mod loss;
mod node;
mod session;
mod sessions;
mod sockets;
mod speaker;
mod stranger;
mod totals;
mod turn;
mod view;

pub use observer::Observer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests_known;
#[cfg(test)]
mod tests_properties;
#[cfg(test)]
mod tests_sessions;
