//! `cargo xtask fuzz`: every fuzz target for a bounded time. It needs a nightly compiler, because the coverage that guides
//! libFuzzer and its sanitizer exist nowhere else; the corpus itself is replayed by `cargo xtask test` on stable.

use crate::command::{cargo, must, target, workspace};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// How long each target runs unless the caller says otherwise.
pub(crate) const SECONDS: u64 = 30;
/// One input must not take longer, in seconds.
const INPUT_SECONDS_MAX: u64 = 10;
/// What one target may use, in MiB.
const MEMORY_MIB_MAX: u64 = 1024;

fn directory() -> PathBuf {
    workspace().join("tests/fuzz")
}

/// The targets are the directories of the corpus; the replay test sees to it that the two agree.
fn targets() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory().join("corpus")).context("read the corpus")?;
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
    names.sort();
    Ok(names)
}

/// Replays the corpus on the stable compiler.
pub(crate) fn replay() -> Command {
    let mut command = cargo();
    command.current_dir(directory()).args(["test", "--target-dir"]).arg(target());
    command
}

/// Fuzzes one target, or all, each for `seconds`.
pub(crate) fn fuzz(only: Option<&str>, seconds: u64) -> Result<()> {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !quiet(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        bail!("fuzzing needs a nightly compiler; install one with `rustup toolchain install nightly`");
    }
    if !quiet(Command::new("cargo-fuzz").arg("--version")) {
        must(cargo().args(["install", "--locked", "cargo-fuzz"]))?;
    }
    let targets = targets()?;
    if let Some(name) = only
        && !targets.iter().any(|known| known == name)
    {
        bail!("there is no target `{name}`; there are: {}", targets.join(" "));
    }
    for name in targets.iter().filter(|name| only.is_none_or(|only| only == name.as_str())) {
        // New inputs go to the target directory; what is worth keeping is copied into the tree by a person.
        let found = target().join("fuzz-corpus").join(name);
        std::fs::create_dir_all(&found).with_context(|| format!("create `{}`", found.display()))?;
        let mut command = Command::new("cargo");
        command.current_dir(directory()).args(["+nightly", "fuzz", "run", "--fuzz-dir", ".", "--features=libfuzzer"]);
        command.arg("--target-dir").arg(target().join("fuzz")).arg("target").arg(&found);
        command.arg(directory().join("corpus").join(name)).arg("--");
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}")).arg("-print_final_stats=1");
        command.env("POD_FUZZ_TARGET", name).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        must(&mut command).with_context(|| format!("fuzz `{name}`"))?;
    }
    Ok(())
}
