//! The choice of the hypervisor, and what both give to the supervisor: a child process and a byte stream.

use crate::plan::{Hypervisor, VmPlan};
use crate::{builtin, qemu};
use anyhow::Result;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

/// A started machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The hypervisor. It dies with the supervisor, by the kernel's doing; its end without a `PodEnded` is a failure.
    pub(crate) process: Child,
    /// Helpers that must not outlive it (virtiofsd).
    pub(crate) helpers: Vec<Child>,
    /// The channel to stage2.
    pub(crate) channel: UnixStream,
    /// The hypervisor writes why it gave up, one line, or nothing.
    pub(crate) report: OwnedFd,
    /// How long the guest may take to its first word.
    pub(crate) boot_secs_max: u64,
}

/// Starts `plan` on the hypervisor it asks for.
pub(crate) fn start(plan: &VmPlan, initramfs: File) -> Result<Machine> {
    match plan.hypervisor {
        Hypervisor::Builtin => builtin::start(plan, initramfs),
        Hypervisor::Qemu => qemu::start(plan, initramfs),
        Hypervisor::Auto => match builtin::probe() {
            Ok(()) => builtin::start(plan, initramfs),
            Err(_) => qemu::start(plan, initramfs),
        },
    }
}
