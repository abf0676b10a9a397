//! The edges.
#![warn(missing_docs)]

pub mod capture;
