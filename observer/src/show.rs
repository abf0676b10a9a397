//! Commands that ask a running agent and print its answer.

pub mod circumstances;
pub mod events;
pub mod flaps;
pub mod forget;
pub mod incidents;
pub mod path;
pub mod peer;
pub mod routes;
pub mod safe;
pub mod status;
pub mod table;
pub mod topology;
pub mod words;
