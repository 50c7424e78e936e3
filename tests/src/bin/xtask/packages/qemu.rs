//! qemu beside a package that does not tolerate the distribution's qemu.
//!
//! Where `qemu-utils` comes from backports, Debian 12's `qemu-system-common` would remove it. The files of the distribution's
//! qemu are then installed as a package of their own name, without those that other packages own. It conflicts with the
//! distribution's packages, so that apt replaces it by them when a user asks for them.

use super::apt;
use crate::command::must;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages that are asked for by name, which [`install_beside`] stands for.
pub(super) const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-system-common"];
/// All packages that are built from the same source with fixed versions of each other, so they go together.
const TOGETHER: [&str; 3] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data"];
const NAME: &str = "pod-qemu";

/// Installs qemu's files as the package [`NAME`], because the distribution's packages would remove `removed`.
pub(super) fn install_beside(removed: &[String]) -> Result<()> {
    let removed = removed.join("`, `");
    eprintln!(
        "xtask: the distribution's qemu would remove `{removed}`; its files are installed as the package `{NAME}`"
    );
    let scratch = tempfile::tempdir()?;
    let tree = scratch.path().join("tree");
    must(apt::command().arg("download").args(TOGETHER).current_dir(scratch.path()))?;
    let archives = archives(scratch.path())?;
    for archive in &archives {
        must(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&tree))?;
    }
    leave_out_files_of_others(&tree, &tree)?;
    let field = |archive: &Path, name: &str| -> Result<String> {
        let output = Command::new("dpkg-deb").arg("--field").arg(archive).arg(name).output().context("run dpkg-deb")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let depends = archives.iter().map(|archive| field(archive, "Depends")).collect::<Result<Vec<String>>>()?;
    let control = control(&field(&archives[0], "Version")?, &field(&archives[0], "Architecture")?, &depends);
    fs::create_dir(tree.join("DEBIAN"))?;
    fs::write(tree.join("DEBIAN/control"), control)?;
    let package = scratch.path().join(format!("{NAME}.deb"));
    must(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(&tree).arg(&package))?;
    apt::install(&[&package.display().to_string()])
}

/// The downloaded packages, that of the emulator first.
fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "deb")).collect();
    anyhow::ensure!(found.len() == TOGETHER.len(), "apt-get downloaded {} of {} packages", found.len(), TOGETHER.len());
    // An architecture of their own have the first two; `qemu-system-x86` sorts behind `-common`.
    found.sort_by_key(|path| !path.to_string_lossy().contains(PACKAGES[0]));
    Ok(found)
}

/// Removes from `tree` what lies on this machine already: two packages must not own one file.
fn leave_out_files_of_others(directory: &Path, tree: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            leave_out_files_of_others(&path, tree)?;
        } else if fs::symlink_metadata(Path::new("/").join(path.strip_prefix(tree)?)).is_ok() {
            fs::remove_file(&path).with_context(|| format!("remove `{}`", path.display()))?;
        }
    }
    Ok(())
}

/// The package's own description, with the dependencies of all but those of one on the other.
fn control(version: &str, architecture: &str, depends: &[String]) -> String {
    let all = depends.iter().flat_map(|list| list.split(',')).map(str::trim);
    let mut kept: Vec<&str> = all.filter(|one| !TOGETHER.iter().any(|name| one.starts_with(name))).collect();
    kept.retain(|one| !one.is_empty());
    kept.sort_unstable();
    kept.dedup();
    let (depends, others) = (kept.join(", "), TOGETHER.join(", "));
    format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: pod\nDepends: {depends}\n\
         Conflicts: {others}\nDescription: the distribution's qemu, beside a newer qemu-utils\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dependencies_of_all_are_kept_once() {
        let depends = ["libc6 (>= 2.34), qemu-system-common (>> 1:7.2), seabios", "libc6 (>= 2.34), zlib1g", ""];
        let control = control("1:7.2", "amd64", &depends.map(str::to_owned));
        assert!(control.contains("\nDepends: libc6 (>= 2.34), seabios, zlib1g\n"), "{control}");
        assert!(control.contains("\nConflicts: qemu-system-x86, qemu-system-common, qemu-system-data\n"), "{control}");
    }
}
