//! Where what the core concluded is shown. A sink never calls back.

pub mod api;
pub mod api_routes;
pub mod lines;
pub mod log;
pub mod metrics;
pub mod node_events;
pub mod stored;
