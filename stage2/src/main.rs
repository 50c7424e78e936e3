//! The executable of stage2: the library's text says what it does. Here is only how it ends.

use contract::exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The kernel of a guest runs its init without arguments, as a process without a parent.
    let init = std::env::args_os().next().is_some_and(|name| name == "/init") && std::process::id() == 1;
    match std::env::args_os().nth(1).as_ref().and_then(|mode| mode.to_str()) {
        Some("namespaces") => ExitCode::from(pod()),
        Some("guest") => stage2::guest::main(pod),
        _ if init => stage2::guest::main(pod),
        _ => {
            eprintln!("stage2: this is PID 1 of a pod; use `pod run`");
            ExitCode::from(exit::USAGE)
        }
    }
}

/// Runs the pod; a failure of stage2 itself is 125, and its text is for whoever started it.
fn pod() -> u8 {
    stage2::pod().unwrap_or_else(|error| {
        eprintln!("stage2: {error:#}");
        exit::FAILURE
    })
}
