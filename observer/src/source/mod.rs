//! Where events come from: everything that asks the kernel something. Each source says whether it
//! can run and why not; none concludes anything.

pub mod bird;
pub mod btf;
pub mod cgroup;
pub mod clock;
pub mod echo;
pub mod kernel;
pub mod kube;
pub mod netns;
pub mod rtnetlink;
pub mod sock_diag;
pub mod speakers;
pub mod tap;
