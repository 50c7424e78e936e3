//! qemu as the hypervisor, for hosts whose KVM cannot run a guest.

use crate::hypervisor::Machine;
use crate::plan::VmPlan;
use anyhow::{Result, bail};
use std::fs::File;

/// Starts the machine in qemu.
pub(crate) fn start(_plan: &VmPlan, _initramfs: File) -> Result<Machine> {
    bail!("the qemu hypervisor is not there yet")
}
