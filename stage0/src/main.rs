//! `pod`: runs pods of apps from signed images, without a daemon.
//!
//! A user starts it, as root, in the host's namespaces. It decides everything about a pod and writes it down, makes what
//! the pod needs of the host (cgroups, leases), and becomes stage1 by exec. It never isolates anything itself, never runs
//! a program of an image, and leaves nothing behind that `pod gc` would not find.

mod arguments;
mod cgroup;
mod commands;
mod demo;
mod escape;
mod facts;
mod failure;
mod images;
mod life;
mod pod_json;
mod stage1;
mod sys;
mod values;

use arguments::tree::Command;
use arguments::{Action, Arguments};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (command, result) = match arguments() {
        Ok(arguments) => (Some(arguments.action.name()), run(&arguments)),
        Err((command, failure)) => (command, Err(failure.into())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (text, exit) = failure::report(command, &error);
            let _ = std::io::stderr().write_all(text.as_bytes()); // Nobody is left to tell.
            ExitCode::from(exit)
        }
    }
}

fn arguments() -> Result<Arguments, (Option<&'static str>, failure::Failure)> {
    let argv: Result<Vec<String>, _> = std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    // pod.json is JSON, so what is to stand in it must be UTF-8.
    let argv = argv.map_err(|word| {
        (None, failure::Failure::usage(format!("argument `{}` is not UTF-8", word.to_string_lossy())))
    })?;
    arguments::parse(&argv)
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.action {
        Action::Run(pod) => commands::run::run(&arguments.globals, pod).map(|never| match never {}),
        Action::Print(text) => Ok(std::io::stdout().write_all(text.as_bytes())?),
        Action::Command(Command::Trust(command)) => {
            let text = commands::trust::run(&arguments.globals, command)?;
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
        _ => Err(failure::Failure::new("not there yet").into()),
    }
}
