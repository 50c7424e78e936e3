//! Kernel modules and what they depend on, from `modules.dep`.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of `names`, each after all that it depends on; a name that the kernel has built in or does not have is left out.
pub(super) fn resolve(directory: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let file = directory.join("modules.dep");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read `{}`", file.display()))?;
    Ok(order(&text, names).into_iter().map(|path| directory.join(path)).collect())
}

/// Each line of `modules.dep` is `MODULE: DEPENDENCY…`, where a module's dependencies are complete, nearest first.
fn order<'a>(text: &'a str, names: &[&str]) -> Vec<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let known: BTreeMap<String, (&str, &str)> = lines.map(|(path, rest)| (name(path), (path, rest))).collect();
    let mut ordered = Vec::new();
    for wanted in names {
        let Some((path, rest)) = known.get(&wanted.replace('-', "_")) else { continue };
        for module in rest.split_ascii_whitespace().rev().chain([*path]) {
            if !ordered.contains(&module) {
                ordered.push(module);
            }
        }
    }
    ordered
}

/// `kernel/fs/fuse/virtiofs.ko.xz` → `virtiofs`; file names have `-` where the kernel says `_`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let text = "k/virtio.ko:\nk/ring.ko: k/virtio.ko\nk/virtio-pci.ko.xz: k/ring.ko k/virtio.ko\nk/fs.ko: k/ring.ko k/virtio.ko\n";
        let all = ["k/virtio.ko", "k/ring.ko", "k/virtio-pci.ko.xz", "k/fs.ko"];
        assert_eq!(order(text, &["virtio_pci", "built-in", "fs"]), all);
    }
}
