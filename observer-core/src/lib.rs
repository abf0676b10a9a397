//! The pure heart of bgp-observer: typed events go in, changes come out.
//!
//! No clock, no socket, no file, no environment and no failure: time, configuration and everything
//! the outside knows are arguments, and bad input is a counted fact. What order the same events are
//! applied in decides everything, so that a recorded file replays bit for bit.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bgp;
pub mod cause;
pub mod change;
pub mod config;
pub mod conversation;
pub mod event;
pub mod observer;
pub mod peer;
pub mod record;
pub mod stream;
pub mod time;

pub use observer::Observer;
