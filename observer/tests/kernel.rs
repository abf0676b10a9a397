//! The kernel programs on the running kernel: what really happens to sockets and processes comes
//! out as the right events. Needs root; makes its own namespaces.

#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/sockets.rs"]
mod sockets;
#[path = "kernel/speakers.rs"]
mod speakers;
#[path = "kernel/strangers.rs"]
mod strangers;
