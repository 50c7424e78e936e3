//! The choice of the hypervisor, and what both give to the supervisor: a child process and a byte stream.

use crate::builtin;
use crate::plan::{Hypervisor, VmPlan};
use crate::qemu::{self, Accelerator};
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

/// Starts `plan` on the hypervisor it asks for. `auto` is the built-in one where its probe guest runs, else qemu, in software
/// if need be, and says so: it is slower by an order of magnitude, and nobody should measure it unknowingly.
///
/// `taps` are the queues of the guest's network cards, in their order.
pub(crate) fn start(plan: &VmPlan, initramfs: File, taps: Vec<OwnedFd>) -> Result<Machine> {
    if plan.hypervisor == Hypervisor::Builtin {
        return builtin::start(plan, initramfs, taps);
    }
    match builtin::probe::ask() {
        Ok(()) if plan.hypervisor == Hypervisor::Auto => builtin::start(plan, initramfs, taps),
        Ok(()) => qemu::start(plan, initramfs, taps, Accelerator::Kvm),
        Err(why) => {
            eprintln!("pod: run: no usable KVM ({why:#}): the machine is emulated in software, which is slow");
            qemu::start(plan, initramfs, taps, Accelerator::software())
        }
    }
}
