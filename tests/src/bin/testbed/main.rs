//! `testbed [--systemd] [--console] [--seconds N] [--memory-mib N] COMMAND…`: runs a command of this machine in the testbed VM,
//! as root; and the same program as the init of that VM.

use anyhow::{Context, Result};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tests::testbed::{self, Job};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        testbed::guest::init();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "service") {
        testbed::guest::service();
    }
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(words: &[String]) -> Result<ExitCode> {
    let mut job = Job::new(&[]);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> { Ok(words.next().context("a number is missing")?.parse()?) };
        match word.as_str() {
            "--systemd" => job.systemd = true,
            "--console" => job.console = true,
            "--seconds" => job.time_max = Duration::from_secs(number()?),
            "--memory-mib" => job.memory_mib = u32::try_from(number()?)?,
            program => {
                job.command = std::iter::once(program.to_owned()).chain(words.by_ref().cloned()).collect();
            }
        }
    }
    anyhow::ensure!(
        !job.command.is_empty(),
        "usage: testbed [--systemd] [--console] [--seconds N] [--memory-mib N] COMMAND…"
    );
    job.directory = std::env::current_dir()?;
    let report = testbed::run(&job)?;
    std::io::stdout().write_all(&report.stdout)?;
    std::io::stderr().write_all(&report.stderr)?;
    match report.code {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(125))),
        None => {
            let why = if report.late { "did not end in time" } else { "ended before the command did" };
            anyhow::bail!("the machine {why}; its last words:\n{}", report.console)
        }
    }
}
