//! The probe: the app of the test images. It runs inside a pod as any app does, with whatever confinement the pod gave
//! it, and either reports what it sees (`report`, JSON for tests; `demo`, text for people) or does what a test asks.
//!
//! It is one static executable, so that a root file system needs nothing else. It must never be run outside a pod: some
//! of what it tries (making device nodes, mounting) would work there.

mod actions;
#[cfg(target_arch = "x86_64")]
mod cpuid;
mod demo;
mod kernel;
mod network;
mod report;
mod sys;
mod syscalls;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match actions::run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("probe: {error:#}");
            // A number that no test expects of an app.
            ExitCode::from(99)
        }
    }
}
