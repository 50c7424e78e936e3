//! The end of the machine.

use rustix::system::{RebootCommand, reboot};

/// Resets the machine, which both hypervisors take as its end: a reset is one instruction, a power-off by ACPI needs tables.
pub(super) fn off() -> ! {
    // Nothing is synced: disks are read-only or go with the pod, and shares were written by the host.
    let _ = reboot(RebootCommand::Restart);
    let _ = reboot(RebootCommand::PowerOff);
    // The kernel refuses only processes without the privilege, and panics when PID 1 ends; that also ends the machine.
    std::process::abort()
}
