//! Tests that run in the machine: the program of a test is executed again, there, for what the test asks.

use super::{Job, Report};
use crate::fixture::Test;
use crate::outcome::Outcome;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

/// Set in the machine.
const INSIDE: &str = "POD_TESTS_INSIDE";
/// Which hypervisor the pods of `--stage1=kvm` are given.
pub(crate) const HYPERVISOR: &str = "POD_TESTS_HYPERVISOR";
/// The longest that the machine of one test may live.
const TIME_MAX: Duration = Duration::from_secs(1200);

/// Something that must hold in the machine: its name, and what finds out.
pub type Check = (&'static str, fn(&Test));

/// Runs `checks` with `--stage1=kvm`, one after the other, in a machine of their own, and fails if one of them does. To be called
/// as the whole body of the test `test`: in the machine, the same body does the work.
pub fn checks(test: &str, checks: &[Check]) {
    checks_on("kvm", "", test, checks);
}

/// As [`checks`], with another `--stage1=`, and with words for the command line of the machine's kernel.
pub fn checks_on(stage1: &'static str, kernel_arguments: &str, test: &str, checks: &[Check]) {
    if std::env::var_os(INSIDE).is_none() {
        if let Some(reason) = super::missing() {
            return crate::skip(&reason);
        }
        machine(&["--exact", test, "--nocapture"], "auto", |job| {
            kernel_arguments.clone_into(&mut job.kernel_arguments);
        });
        return;
    }
    let failed: Vec<&str> = checks.iter().filter(|check| !holds(stage1, check)).map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "failed in the testbed: {}", failed.join(", "));
}

/// Runs `body` with `--stage1=namespaces` in a machine of its own whose PID 1 is systemd. To be called as the whole body of the test
/// `test`: in the machine, the same body does the work.
pub fn under_systemd(test: &str, body: fn(&Test)) {
    if std::env::var_os(INSIDE).is_some() {
        return crate::on_stage("namespaces", "systemd", body);
    }
    match super::missing() {
        Some(reason) => crate::skip(&reason),
        None => _ = machine(&["--exact", test, "--nocapture"], "auto", |job| job.systemd = true),
    }
}

fn holds(stage1: &'static str, (name, check): &Check) -> bool {
    let begin = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| crate::on_stage(stage1, name, *check)));
    let word = if result.is_ok() { "ok" } else { "FAILED" };
    println!("testbed: {name} ... {word} ({:.1} s)", begin.elapsed().as_secs_f64());
    result.is_ok()
}

/// Runs tests of this very program in a machine of their own: those for `stage1` whose names begin as one of `names`. Fails if one
/// of them does. Pods of `--stage1=kvm` run on `hypervisor`.
pub fn these_tests(names: &[&str], stage1: &str, hypervisor: &str) {
    if let Some(reason) = super::missing() {
        return crate::skip(&reason);
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let list = Outcome::of(Command::new(own).arg("--list"));
    let all = list.stdout.lines().filter_map(|line| line.strip_suffix(": test"));
    let others: Vec<&str> = ["namespaces", "kvm"].into_iter().filter(|other| *other != stage1).collect();
    let of_stage1 = |name: &&str| !others.iter().any(|other| name.ends_with(&format!("::{other}")));
    let chosen: Vec<&str> =
        all.filter(of_stage1).filter(|name| names.iter().any(|start| name.starts_with(start))).collect();
    let unknown = names.iter().find(|start| !chosen.iter().any(|name| name.starts_with(**start)));
    assert!(unknown.is_none(), "no test is named {unknown:?}");
    let passed = machine(&[&["--exact"], chosen.as_slice()].concat(), hypervisor, |_| ());
    assert_eq!(passed as usize, chosen.len(), "not all of the chosen tests ran");
}

/// Runs this very program in the machine, as `change` makes it, prints what it says, and returns how many tests have passed, which is not none.
fn machine(words: &[&str], hypervisor: &str, change: impl FnOnce(&mut Job)) -> u32 {
    // The signed image of the probe is made on the build machine, once for all.
    crate::fixture::share();
    let own = std::env::current_exe().expect("a running program has a path");
    let mut job = Job::new(&[own.to_str().expect("cargo's names are UTF-8")]);
    job.command.extend(words.iter().map(|&word| word.to_owned()));
    let variables = [(INSIDE, "1"), (HYPERVISOR, hypervisor), (crate::FULL, "1"), ("RUST_BACKTRACE", "0")];
    job.environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    job.time_max = TIME_MAX;
    change(&mut job);
    let report = super::run(&job).expect("the testbed runs");
    let output = String::from_utf8_lossy(&report.stdout);
    print!("{output}{}", String::from_utf8_lossy(&report.stderr));
    let Report { code, late, console, .. } = &report;
    assert!(*code == Some(0), "ended with {code:?}, late: {late}; the machine's last words:\n{console}");
    let passed = passed(&output);
    assert!(passed > 0, "no test ran in the testbed");
    passed
}

/// Of `test result: ok. 3 passed; …`, as libtest prints it.
fn passed(output: &str) -> u32 {
    let line = output.lines().find_map(|line| line.strip_prefix("test result: ok. "));
    line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0)
}
