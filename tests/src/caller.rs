//! What a caller of `pod` may have about him: another umask, ignored and blocked signals.

use crate::fixture::Test;
use std::process::Command;

/// Runs `body` in a world of its own, in a thread whose umask is `mask` and no other thread's. What the thread executes has it, too.
pub fn with_umask(t: &Test, mask: u32, body: fn(&Test)) {
    t.probe(); // What all tests share is made with the ordinary umask.
    let stage1 = t.stage1();
    let thread = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).expect("threads may part");
        // The directories of the world are the administrator's, who lets nobody else write there.
        let own = Test::new(stage1, "umask");
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        body(&own);
        own.finish();
    };
    let result = std::thread::scope(|scope| scope.spawn(thread).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// The same command, executed with all signals blocked and ignored that can be.
#[must_use]
pub fn without_signals(command: &Command) -> Command {
    let mut deaf = Command::new("/usr/bin/env");
    deaf.args(["--ignore-signal", "--block-signal", "--"]).arg(command.get_program()).args(command.get_args());
    deaf.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        deaf.current_dir(directory);
    }
    deaf
}
