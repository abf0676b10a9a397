//! The edges of bgp-observer: sources that read the kernel, sinks that show what the core
//! concluded, the run loop between them, and the command line.
//!
//! Nothing here decides anything about BGP; that is `observer_core`'s. What is here may fail, and
//! says so.

pub mod bundle;
pub mod capture;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod connects;
pub mod control;
pub mod cross_check;
pub mod echoes;
pub mod flight;
pub mod health;
pub mod intake;
pub mod inventory;
pub mod keeper;
pub mod kubectl;
pub mod listen;
pub mod logging;
pub mod namespaces;
pub mod own_thread;
pub mod privileges;
pub mod reach;
pub mod recorder;
pub mod recording;
pub mod reorder;
pub mod replay;
pub mod routes;
pub mod run;
pub mod server;
pub mod show;
pub mod sink;
pub mod sockets;
pub mod source;
pub mod state_dir;
pub mod store;
pub mod tally;
pub mod taps;
pub mod terminal;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod weight;
