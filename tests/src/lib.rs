//! Labs: nodes as network namespaces on a bridge, each with a real BGP speaker and a pod, observed
//! by one agent; scenarios that break them; and what the agent must say then.
//!
//! Everything a lab makes (namespaces, processes, its directory) carries the lab's id and goes away
//! with it: on drop, on panic, on SIGINT and SIGTERM; what a `kill -9` left behind, the next lab
//! clears away. Nothing is made in the namespace the lab is started from.

pub mod agent;
pub mod agents;
pub mod birdc;
pub mod bpf;
pub mod burst;
pub mod capture;
pub mod cgroup;
pub mod crowd;
pub mod estate;
pub mod fib;
pub mod firewall;
pub mod forge;
pub mod gate;
pub mod http;
pub mod kube_api;
pub mod lab;
pub mod listeners;
pub mod metrics;
pub mod netns;
pub mod pinger;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod rights;
pub mod scenario;
pub mod seccomp;
pub mod soak;
pub mod speaker;
pub mod stage;
pub mod story;
pub mod strangers;
pub mod transfer;
pub mod wait;
