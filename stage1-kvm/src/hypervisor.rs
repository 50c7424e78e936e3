//! The choice of the hypervisor.

use crate::builtin;
use crate::machine::Machine;
use crate::plan::{Hypervisor, VmPlan};
use crate::qemu::{self, Accelerator};
use anyhow::Result;
use std::fs::File;
use std::os::fd::OwnedFd;

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
