//! The cgroups of a pod: which hierarchies this host has, what the pod needs of them (pure), and making it.
//!
//! Runs in the host's namespaces as root. It makes as few directories and writes as few files as the pod's limits need,
//! because each move into a v1 cgroup costs the kernel a fifth of a millisecond. What cannot be enforced is refused.

pub(crate) mod bpf;
pub(crate) mod hierarchy;
pub(crate) mod make;
pub(crate) mod plan;
