//! stage1-kvm runs a pod in a microVM.
//!
//! `stage1-kvm run UUID` is the supervisor: stage0 becomes it, with the caller's privilege (root), in the host's
//! namespaces. It plans the machine, starts a hypervisor as a child, and then speaks with stage2 in the guest over one byte
//! stream, whose every byte is hostile. It never maps guest memory and never opens a path that the guest chose.
//! `stage1-kvm vmm` is that child for the built-in hypervisor: it gets all it needs as open fds, jails itself and runs
//! the vCPUs. `stage1-kvm check` says what of all this a host has. `stage1-kvm qemu` and `stage1-kvm virtiofsd` are the jails of programs of others, which they become.

mod builtin;
mod check;
mod console;
mod cpuid;
mod host;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
mod hypervisor;
mod initramfs;
mod kernel;
mod kernel_modules;
mod machine;
mod network;
mod plan;
mod qemu;
mod report;
mod roots;
mod run;
mod supervise;
mod sys;

use std::process::ExitCode;

/// The program: does what its arguments say and gives the exit code.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", uuid] => return supervisor::run(uuid, run::run),
        ["vmm"] => return builtin::main(),
        ["probe"] => return probe(),
        ["check"] => check::check().map(|()| 0),
        ["qemu", parent, accelerator, program, rest @ ..] => qemu::jail::main(parent, accelerator, program, rest),
        ["virtiofsd", parent, share @ ..] => qemu::share::main(parent, share),
        _ => {
            eprintln!("stage1-kvm: usage: stage1-kvm run UUID");
            return ExitCode::from(contract::exit::USAGE);
        }
    };
    result.map_or_else(|error| supervisor::report::failure(&error), ExitCode::from)
}

/// The probe's process: its parent reads why, if it does not succeed.
fn probe() -> ExitCode {
    match builtin::probe::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(contract::exit::FAILURE)
        }
    }
}
