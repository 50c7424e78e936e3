//! `stage1-namespaces run UUID`: isolates one pod in Linux namespaces and supervises it.
//!
//! stage0 becomes this program by exec, as the host's root, with the pod directory as current directory and the fds that the
//! contract lists. It starts one child, which builds the pod's mounts in a namespace of its own and becomes stage2, and
//! then only waits: for the child, for signals, for requests on `control.sock`. It never enters the pod, never resolves a
//! path inside an app's root, never parses an image, and believes nothing that comes out of the pod.

mod mount;
mod network;
mod overlay;
mod plan;
mod pod_root;
mod run;
mod spawn;
mod supervise;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(command), Some(uuid), None) if command == "run" => supervisor::run(&uuid.to_string_lossy(), run::run),
        _ => {
            eprintln!("usage: stage1-namespaces run UUID");
            ExitCode::from(contract::exit::USAGE)
        }
    }
}
