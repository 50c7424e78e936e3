//! `cargo xtask install PREFIX`: a release build where a user's PATH finds it. `pod` goes to `bin`, what it executes and
//! reads to `lib/pod`, where it looks relative to itself.

use crate::build::{Profile, build, kernel};
use crate::packages::{Need, ensure};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const USER_PROGRAMS: [&str; 2] = ["pod", "image-tools"];
const STAGES: [&str; 3] = ["stage1-namespaces", "stage1-kvm", "stage2"];

pub(crate) fn install(prefix: &Path) -> Result<()> {
    ensure(Need::Build)?;
    let built = build(Profile::Release)?;
    let programs = prefix.join("bin");
    let library = prefix.join("lib/pod");
    for directory in [&programs, &library] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    for name in USER_PROGRAMS {
        place(&built.join(name), &programs.join(name), 0o755)?;
    }
    for name in STAGES {
        place(&built.join(name), &library.join(name), 0o755)?;
        let declaration = format!("{name}.json");
        if built.join(&declaration).exists() {
            place(&built.join(&declaration), &library.join(&declaration), 0o644)?;
        }
    }
    match kernel() {
        Ok(kernel) => place(&kernel, &library.join("vmlinux"), 0o644)?,
        Err(error) => eprintln!("xtask: without a guest kernel for `--stage1=kvm`: {error:#}"),
    }
    println!("{}", programs.join("pod").display());
    Ok(())
}

/// Copies to a temporary name and renames, so that a running `pod` is replaced and not overwritten.
fn place(source: &Path, target: &Path, mode: u32) -> Result<()> {
    let new = target.with_extension("new");
    fs::copy(source, &new).with_context(|| format!("copy `{}`", source.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, target).with_context(|| format!("rename to `{}`", target.display()))
}
