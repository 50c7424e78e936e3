//! The executable of stage2: PID 1 of a pod, or the init of a guest. The library's text says what it does.

use contract::exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The kernel of a guest runs its init as process 1 and gives it no arguments of ours.
    let init = std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == "/init");
    match std::env::args_os().nth(1).as_ref().and_then(|mode| mode.to_str()) {
        Some("namespaces") => ExitCode::from(stage2::pod()),
        Some("guest") => stage2::guest::main(stage2::pod),
        _ if init => stage2::guest::main(stage2::pod),
        _ => {
            eprintln!("stage2: this is PID 1 of a pod\nhint: use `pod run`");
            ExitCode::from(exit::USAGE)
        }
    }
}
