//! `cargo xtask`: the project's own task runner, run by a developer or by continuous integration on the build machine.
//!
//! It prepares a bare Debian (only a Rust toolchain) for what is asked, builds, runs, tests and measures. It runs as
//! whoever calls it; only installing Debian packages and starting pods needs root. It must not leave anything outside the
//! target directory and the caches it names, except the packages it says it installs.

mod bench;
mod build;
mod check;
mod command;
mod fuzz;
mod install;
mod packages;
mod run;

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask COMMAND

  build [--debug]          all executables, side by side, with the demo image inside `pod`
  run [--debug] [ARG…]     build, then `pod run demo` in a data directory of its own; ARGs go to `pod run`
  kernel                   the guest kernel that is made for microVMs, from the distribution's sources; prints its path
  test [FILTER]            format, lints, unit and behaviour tests; FILTER picks behaviour tests by name
  bench [--debug] [TABLE…] the tables of the README: start memory list together unpack pull vm
  fuzz [TARGET [SECONDS]]  every fuzz target, or one, for 30 s each; needs a nightly compiler
  install PREFIX           release build into PREFIX/bin and PREFIX/lib/pod";

enum Task {
    Build(build::Profile),
    Run(build::Profile, Vec<String>),
    Kernel,
    Test(Option<String>),
    Bench(build::Profile, Vec<String>),
    /// Of the testbed VM only: what [`bench::bench`] wants measured there.
    Inside(PathBuf),
    Fuzz(Option<String>, u64),
    Install(PathBuf),
    Help,
}

fn parse(mut arguments: Vec<String>) -> Result<Task> {
    let debug = arguments.iter().position(|argument| argument == "--debug").map(|index| arguments.remove(index));
    let profile = if debug.is_some() { build::Profile::Debug } else { build::Profile::Release };
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest.to_vec()),
        None => ("help", Vec::new()),
    };
    Ok(match (command, rest.as_slice()) {
        ("build", []) => Task::Build(profile),
        ("run", _) => Task::Run(profile, rest),
        ("kernel", []) => Task::Kernel,
        ("test", []) => Task::Test(None),
        ("test", [filter]) => Task::Test(Some(filter.clone())),
        ("bench", _) => Task::Bench(profile, rest),
        ("bench-inside", [executables]) => Task::Inside(PathBuf::from(executables)),
        ("fuzz", []) => Task::Fuzz(None, fuzz::SECONDS),
        ("fuzz", [name]) => Task::Fuzz(Some(name.clone()), fuzz::SECONDS),
        ("fuzz", [name, seconds]) => Task::Fuzz(Some(name.clone()), seconds.parse()?),
        ("install", [prefix]) => Task::Install(PathBuf::from(prefix)),
        ("help" | "--help" | "-h", _) => Task::Help,
        _ => bail!("`{}` is not understood\n{HELP}", arguments.join(" ")),
    })
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Build(profile) => {
            packages::ensure(packages::Need::Build)?;
            println!("{}", build::build(profile)?.display());
        }
        Task::Run(profile, arguments) => return run::run(profile, &arguments),
        Task::Kernel => {
            packages::ensure(packages::Need::Kernel)?;
            println!("{}", build::kernel()?.display());
        }
        Task::Test(filter) => return check::check(filter.as_deref()),
        Task::Bench(profile, tables) => bench::bench(profile, &tables)?,
        Task::Inside(executables) => bench::inside(&executables)?,
        Task::Fuzz(only, seconds) => fuzz::fuzz(only.as_deref(), seconds)?,
        Task::Install(prefix) => install::install(&prefix)?,
        Task::Help => println!("{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect();
    match parse(arguments).and_then(perform) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
