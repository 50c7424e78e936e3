//! The built-in hypervisor.

use crate::hypervisor::Machine;
use crate::plan::VmPlan;
use anyhow::{Result, bail};
use std::fs::File;
use std::process::ExitCode;

/// Whether a probe guest runs on this machine's KVM.
pub(crate) fn probe() -> Result<()> {
    bail!("the built-in hypervisor is not there yet")
}

/// Starts the machine in a child process.
pub(crate) fn start(_plan: &VmPlan, _initramfs: File) -> Result<Machine> {
    bail!("the built-in hypervisor is not there yet")
}

/// The child: all it needs is in the fds it was given.
pub(crate) fn main() -> ExitCode {
    ExitCode::from(contract::exit::FAILURE)
}
