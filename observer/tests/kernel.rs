//! The kernel programs on the running kernel: what really happens to sockets and processes comes
//! out as the right events. Needs root; makes its own namespaces.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, and prints why it was skipped"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each test looks for one fact among all"
)]

#[path = "kernel/attached.rs"]
mod attached;
#[path = "kernel/drops.rs"]
mod drops;
#[path = "kernel/echo.rs"]
mod echo;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/routes.rs"]
mod routes;
#[path = "kernel/segments.rs"]
mod segments;
#[path = "kernel/silence.rs"]
mod silence;
#[path = "kernel/sockets.rs"]
mod sockets;
#[path = "kernel/speakers.rs"]
mod speakers;
#[path = "kernel/strangers.rs"]
mod strangers;
