//! `cargo xtask test`: everything that must hold before a change lands, in the order of what fails fastest.
//!
//! The last line is the sum of all test runners: `N passed, N failed`. In this full run a test that would skip itself for
//! want of root or of a tool fails instead: nothing is counted as passed that did not run.

use crate::build::{self, Profile, build, demo_environment};
use crate::command::{cargo, must};
use crate::packages::{Need, ensure};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Set for the tests: a skip is a failure.
const FULL: &str = "POD_TESTS_FULL";

#[derive(Default)]
struct Sum {
    passed: u64,
    failed: u64,
}

pub(crate) fn check(filter: Option<&str>) -> Result<ExitCode> {
    ensure(Need::Test)?;
    let begin = Instant::now();
    if filter.is_none() {
        must(cargo().args(["fmt", "--all", "--check"]))?;
    }
    build(Profile::Debug)?;
    let mut sum = Sum::default();
    if filter.is_none() {
        lints()?;
        let units = ["test", "--locked", "--workspace", "--exclude", "tests", "--no-fail-fast"];
        runner(cargo().args(units).env(FULL, "1"), &mut sum)?;
        runner(&mut crate::fuzz::replay(), &mut sum)?;
    }
    // The tests on stage1-kvm boot this kernel; it is built once for each content of its sources.
    build::kernel()?;
    let behaviour = ["test", "--locked", "--package", "tests", "--features", "kvm", "--no-fail-fast"];
    runner(cargo().args(behaviour).args(filter).env(FULL, "1"), &mut sum)?;
    eprintln!("xtask: {} s", begin.elapsed().as_secs());
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.passed == 0 {
        bail!("no test ran");
    }
    Ok(if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lints() -> Result<()> {
    let clippy =
        ["clippy", "--locked", "--workspace", "--all-targets", "--features", "tests/kvm", "--", "--deny", "warnings"];
    must(cargo().args(clippy).envs(demo_environment(Profile::Debug)))
}

/// Runs one `cargo test`, passing its output on and adding up its result lines.
fn runner(command: &mut Command, sum: &mut Sum) -> Result<()> {
    // With the demo's variables as in the build, or `pod` would be built a second time without its demo.
    command
        .envs(demo_environment(Profile::Debug))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cargo test")?;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut results = 0;
    for line in output.lines() {
        let line = line?;
        println!("{line}");
        if let Some((passed, failed)) = result_line(&line) {
            results += 1;
            sum.passed += passed;
            sum.failed += failed;
        }
    }
    let status = child.wait()?;
    if !status.success() && sum.failed == 0 {
        bail!("cargo test ended with {status} after {results} test programs, without a failed test");
    }
    Ok(())
}

/// `test result: ok. 3 passed; 0 failed; …`, as libtest prints it.
fn result_line(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| {
        let before = counts.split("; ").find_map(|part| part.trim().strip_suffix(word))?;
        before.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines() {
        let ok = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        assert_eq!(result_line(ok), Some((12, 0)));
        let bad = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(result_line(bad), Some((1, 2)));
        assert_eq!(result_line("running 3 tests"), None);
    }
}
