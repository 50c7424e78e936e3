//! `cargo xtask run`: what a newcomer sees first. It builds everything and runs the demo pod in a data directory that
//! goes away with it.

use crate::build::{Profile, build};
use crate::packages::{Need, ensure};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, ExitCode};

pub(crate) fn run(profile: Profile, arguments: &[String]) -> Result<ExitCode> {
    ensure(Need::Build)?;
    let executables = build(profile)?;
    if !rustix::process::geteuid().is_root() {
        bail!("a pod is started by root: run `sudo cargo xtask run`");
    }
    let scratch = tempfile::tempdir()?;
    let data = scratch.path().join("data");
    let pod = || {
        let mut command = Command::new(executables.join("pod"));
        command.arg("--dir").arg(&data);
        // No configuration of this machine decides whether the demo runs.
        command.arg("--local-config").arg(scratch.path().join("etc"));
        command.arg("--system-config").arg(scratch.path().join("usr"));
        command
    };
    let run = |words: &[&str]| {
        eprintln!("+ pod run {}", words.join(" "));
        pod().arg("run").args(words).status().context("pod run")
    };
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut status = run(if given.is_empty() { &["--net=none", "demo"] } else { &given })?;
    if given.is_empty() && status.success() {
        // The same pod in a microVM. That needs more of the host, so it comes after what a newcomer wants to see first.
        // The project's own kernel takes minutes to build; where it is missing, the distribution's boots the pod.
        let own = Path::new(tests::kernels::OWN).exists();
        match ensure(if own { Need::Hypervisor } else { Need::Machine }) {
            Ok(()) => status = run(&["--stage1=kvm", "--net=none", "demo"])?,
            Err(error) => eprintln!("xtask: no microVM here: {error:#}"),
        }
    }
    let swept = pod().args(["gc", "--grace-period=0s"]).output().context("pod gc")?;
    if !swept.status.success() {
        bail!("`pod gc` ended with {}: {}", swept.status, String::from_utf8_lossy(&swept.stderr).trim());
    }
    // A shell's way to say that a signal ended the pod.
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))))
}
