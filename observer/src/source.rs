//! Sources.
pub mod tap;
