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
mod lsm;
mod more;
mod network;
mod output;
mod pod_json;
mod stage1;
mod sys;
mod users;
mod values;

use arguments::globals::Globals;
use arguments::tree::Command;
use arguments::{Action, Arguments};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    sys::notice_children();
    // Trust rules, the store and sockets that others may write are refused, so none is made, whatever the caller's umask.
    let others = rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH;
    let own = rustix::process::umask(others);
    rustix::process::umask(own | others);
    let (command, result) = match arguments() {
        Ok(arguments) => (Some(arguments.action.name()), run(&arguments)),
        Err((command, failure)) => (command, Err(failure.into())),
    };
    match result {
        Ok(exit) => ExitCode::from(exit),
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

/// Carries the command out and gives the exit code.
fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    let globals = &arguments.globals;
    arguments::idle_words::refuse(globals, &arguments.action)?;
    match &arguments.action {
        Action::Run(pod) => return commands::run::run(globals, pod).map(|never| match never {}),
        Action::Prepare(pod) => commands::run::prepare(globals, pod),
        Action::Print(text) => output::print(text),
        Action::Command(Command::Exec(exec)) => return commands::exec::exec(globals, exec),
        Action::Command(command) => other(globals, command),
    }
    .map(|()| 0)
}

fn other(globals: &Globals, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::RunPrepared(arguments) => commands::run::run_prepared(globals, arguments).map(|never| match never {}),
        Command::Fetch(arguments) => commands::images::fetch(globals, arguments),
        Command::List(arguments) => commands::pods::list(globals, arguments),
        Command::Status(arguments) => commands::pods::status(globals, arguments),
        Command::Stop(arguments) => commands::stop::stop(globals, arguments),
        Command::Rm(arguments) => commands::pods::remove(globals, arguments),
        Command::Gc(arguments) => commands::pods::collect(globals, arguments),
        Command::CatManifest(arguments) => commands::pods::cat_manifest(globals, arguments),
        Command::Image(command) => commands::images::image(globals, command),
        Command::Trust(command) => output::print(&commands::trust::run(globals, command)?),
        Command::Config(arguments) => commands::about::config(globals, arguments),
        Command::Version(arguments) => commands::about::version(arguments),
        Command::Completion(arguments) => commands::about::completion(arguments),
        Command::Man(arguments) => commands::about::man(arguments),
        Command::Check(arguments) => commands::check::check(arguments),
        Command::Run(_) | Command::Prepare(_) | Command::Exec(_) => {
            Err(failure::Failure::usage("misplaced command").into())
        }
    }
}
