//! `cargo xtask fuzz`: every fuzz target for a bounded time. It needs a nightly compiler, because the coverage that guides
//! libFuzzer and its sanitizer exist nowhere else; the corpus itself is replayed by `cargo xtask test` on stable.

use crate::command::{cargo, must, target, workspace};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long each target runs unless the caller says otherwise.
pub(crate) const SECONDS: u64 = 30;
/// One input must not take longer, in seconds.
const INPUT_SECONDS_MAX: u64 = 10;
/// What one target may use, in MiB.
const MEMORY_MIB_MAX: u64 = 1024;

/// Where cargo-fuzz puts what it builds.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The inputs that are kept.
fn corpus() -> PathBuf {
    workspace().join("tests/fuzz/corpus")
}

/// The targets are the directories of the corpus; the replay test sees to it that the two agree.
fn targets() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(corpus()).context("read the corpus")?;
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
    names.sort();
    Ok(names)
}

/// Replays the corpus on the stable compiler.
pub(crate) fn replay() -> Command {
    let mut command = cargo();
    command.current_dir(workspace().join("tests/fuzz")).args(["test", "--locked", "--target-dir"]).arg(target());
    command
}

/// Fuzzes one target, or all, each for `seconds`: a line on stdout for each.
pub(crate) fn fuzz(only: Option<&str>, seconds: u64) -> Result<()> {
    let targets = targets()?;
    if let Some(name) = only
        && !targets.iter().any(|known| known == name)
    {
        bail!("there is no target `{name}`; there are: {}", targets.join(" "));
    }
    let program = build()?;
    println!("{:14} {:>10} {:>8} {:>8}  result", "target", "runs", "a second", "coverage");
    let mut findings = Vec::new();
    for name in targets.iter().filter(|name| only.is_none_or(|only| only == name.as_str())) {
        let run = Run::new(name)?;
        let status = run.command(&program, seconds).status().context("start the fuzzer")?;
        let log = std::fs::read(&run.log).with_context(|| format!("read `{}`", run.log.display()))?;
        let Progress { runs, a_second, coverage } = Progress::read(&String::from_utf8_lossy(&log));
        let result = if status.success() { "nothing found" } else { "FOUND" };
        println!("{name:14} {runs:>10} {a_second:>8} {coverage:>8}  {result}");
        if !status.success() {
            findings.push(run.log.display().to_string());
        }
    }
    if !findings.is_empty() {
        bail!("what was found, and with which input, is at the end of {}", findings.join(" "));
    }
    Ok(())
}

/// One program for all targets; gives its path.
fn build() -> Result<PathBuf> {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !quiet(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        bail!("fuzzing needs a nightly compiler; install one with `rustup toolchain install nightly`");
    }
    if !quiet(Command::new("cargo-fuzz").arg("--version")) {
        must(cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    let directory = target().join("fuzz");
    let mut command = Command::new("cargo");
    command.current_dir(workspace().join("tests/fuzz"));
    command.args(["+nightly", "fuzz", "build", "--fuzz-dir", ".", "--features=libfuzzer", "--target", TRIPLE]);
    command.arg("--target-dir").arg(&directory).arg("target");
    // Set by the cargo that started this task, which is a stable one.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    must(&mut command)?;
    Ok(directory.join(TRIPLE).join("release/target"))
}

/// The files of one target's run. New inputs and findings go to the target directory; what is worth keeping is copied into the
/// tree by a person.
struct Run {
    name: String,
    found: PathBuf,
    log: PathBuf,
}

impl Run {
    fn new(name: &str) -> Result<Self> {
        let found = target().join("fuzz-corpus").join(name);
        std::fs::create_dir_all(&found).with_context(|| format!("create `{}`", found.display()))?;
        Ok(Self { name: name.to_owned(), log: found.with_extension("log"), found })
    }

    fn command(&self, program: &Path, seconds: u64) -> Command {
        let mut command = Command::new(program);
        command.arg(&self.found).arg(corpus().join(&self.name));
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
        command.arg(format!("-artifact_prefix={}-", self.found.display()));
        command.env("POD_FUZZ_TARGET", &self.name).stdin(Stdio::null()).stdout(Stdio::null());
        match File::create(&self.log) {
            Ok(log) => command.stderr(log),
            Err(_) => command.stderr(Stdio::inherit()),
        };
        command
    }
}

/// How far a run came, in libFuzzer's own words: `#714648 DONE cov: 1473 ft: 4300 corp: 1466/47Kb lim: 544 exec/s: 9403`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    runs: String,
    a_second: String,
    coverage: String,
}

impl Progress {
    fn read(log: &str) -> Self {
        let mut progress = Self::default();
        for line in log.lines().filter(|line| line.starts_with('#') && line.contains("cov:")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| words.iter().skip_while(|word| **word != name).nth(1).map(ToString::to_string);
            progress.runs = words[0].trim_start_matches('#').to_owned();
            progress.a_second = after("exec/s:").unwrap_or_default();
            progress.coverage = after("cov:").unwrap_or_default();
        }
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_last_that_was_said() {
        let log = "INFO: x\n#2\tINITED cov: 9 ft: 9 corp: 1/1b exec/s: 0 rss: 44Mb\n\
            #714648\tDONE   cov: 1473 ft: 4300 corp: 1466/47Kb lim: 544 exec/s: 9403 rss: 471Mb\nDone 714648 runs\n";
        let expected = Progress { runs: "714648".into(), a_second: "9403".into(), coverage: "1473".into() };
        assert_eq!(Progress::read(log), expected);
        assert_eq!(Progress::read("==1== ERROR: libFuzzer: deadly signal"), Progress::default());
    }
}
