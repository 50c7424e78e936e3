//! apt-get, without questions and without ever removing a package.

use crate::command::must;
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

pub(super) fn command() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--quiet"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null());
    command
}

/// Reads the lists of what there is.
pub(super) fn update() -> Result<()> {
    must(command().arg("update"))
}

/// Installs packages, or files of packages, with all that they depend on.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    must(command().args(["install", "--yes", "--no-remove", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("install `{}`", packages.join(" ")))
}

/// The packages that installing these would remove.
pub(super) fn removes(packages: &[&str]) -> Result<Vec<String>> {
    let mut simulate = command();
    simulate.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
    let output = simulate.output().context("run apt-get")?;
    Ok(removed(&String::from_utf8_lossy(&output.stdout)))
}

/// apt-get's own words for it: `Remv qemu-utils [1:10.0.2]`.
fn removed(plan: &str) -> Vec<String> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Remv "));
    lines.filter_map(|rest| rest.split_whitespace().next()).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_read_from_the_plan() {
        let plan = "Remv qemu-utils [1:10.0.2+ds-2]\nInst qemu-system-x86 (1:7.2 Debian:12)\nConf Remv-like\n";
        assert_eq!(removed(plan), ["qemu-utils"]);
        assert!(removed("Inst gcc (4:12.2.0-3 Debian:12/stable [amd64])\n").is_empty());
    }
}
