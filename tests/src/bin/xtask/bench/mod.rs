//! `cargo xtask bench`: tables of medians and ratios, ours beside the peers in one run, as the README shows them.
//!
//! It runs as root in a mount namespace of its own: crun refuses to work where cgroup v2 is mounted beside v1, so that
//! mount is hidden from all that is measured, and from nobody else. What it makes lies in one temporary directory; what
//! the peers leave outside of it is removed at the end.

mod bare;
#[path = "../../../../../image-tools/tests/registry/certificates.rs"]
mod certificates;
mod measure;
mod peers;
mod pods;
mod pull;
mod scale;
#[path = "../../../../../image-tools/tests/registry/server.rs"]
mod server;
mod start;
mod unpack;
mod vm;

use crate::build::{Profile, build};
use crate::packages::{Need, ensure};
use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::path::PathBuf;
use tempfile::TempDir;

pub(crate) use vm::inside;

/// A function that prints one table.
type Table = fn(&World) -> Result<()>;

const TABLES: &[(&str, Table)] = &[
    ("start", start::start),
    ("memory", start::memory),
    ("list", scale::list),
    ("together", scale::together),
    ("unpack", unpack::unpack),
    ("vm", vm::vm),
    ("pull", pull::pull),
];

/// What all tables share.
pub(crate) struct World {
    /// Where our executables are.
    pub(crate) executables: PathBuf,
    /// Everything that is made lies here.
    pub(crate) scratch: TempDir,
}

/// Prints the tables asked for, or all. Only what the release profile gives is worth quoting.
pub(crate) fn bench(profile: Profile, tables: &[String]) -> Result<()> {
    if let Some(unknown) = tables.iter().find(|name| !TABLES.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        bail!("there is no table `{unknown}`; there are {}", known.join(" "));
    }
    ensure(Need::Bench)?;
    if !rustix::process::geteuid().is_root() {
        bail!("measuring starts pods, so it is done by root");
    }
    let executables = build(profile)?;
    own_mounts().context("hide cgroup v2 from the peers")?;
    let world = World { executables, scratch: tempfile::tempdir()? };
    for (name, table) in TABLES {
        if tables.is_empty() || tables.iter().any(|wanted| wanted == name) {
            table(&world).with_context(|| format!("table `{name}`"))?;
            println!();
        }
    }
    tests::podman::sweep(world.scratch.path());
    Ok(())
}

/// Leaves the machine's mount namespace, and drops the unified hierarchy from the copy where v1 is mounted, too.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let unified = "/sys/fs/cgroup/unified";
    if std::path::Path::new(unified).exists() {
        umount2(unified, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}
