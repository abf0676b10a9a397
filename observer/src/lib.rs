//! The edges.

pub mod source;
