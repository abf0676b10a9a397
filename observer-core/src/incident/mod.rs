//! Incidents: what sessions, routes and probes show together (DESIGN §3).

pub mod record;

pub use record::Incident;
