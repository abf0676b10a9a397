//! Where events come from. A source reads, stamps and hands on; it never concludes.

pub mod kernel;
pub mod netns;
pub mod sock_diag;
pub mod speakers;
