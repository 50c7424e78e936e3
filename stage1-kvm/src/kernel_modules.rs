//! The modules that a distribution's kernel needs to find its devices and roots, from the directory that its package installed.
//! Pure but for two small files: `modules.dep` and `modules.builtin`, whose form is depmod's (man modules.dep).

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What stage2 cannot do without.
const NEEDED: [&str; 5] = ["virtio_mmio", "virtio_console", "virtio_blk", "erofs", "overlay"];
/// What some kernels have elsewhere or not at all. The checksum is one that others look up by name when they start.
const USEFUL: [&str; 5] = ["crc32c_generic", "virtio_rng", "fuse", "virtiofs", "virtio_balloon"];

/// The modules for the kernel in `file`, dependencies first; none for one that no package of modules belongs to.
pub(crate) fn of(file: &Path) -> Result<Vec<PathBuf>> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(version) = name.strip_prefix("vmlinuz-") else { return Ok(Vec::new()) };
    let directory = Path::new("/lib/modules").join(version);
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))
    };
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let paths = choose(&dependencies, &builtin)
        .with_context(|| format!("the kernel `{}` cannot boot a pod", file.display()))?;
    if let Some(packed) = paths.iter().find(|path| !path.ends_with(".ko")) {
        bail!("module `{packed}` of kernel `{}` is compressed, which stage2 does not unpack", file.display());
    }
    Ok(paths.into_iter().map(|path| directory.join(path)).collect())
}

/// Paths relative to the modules' directory, in the order of loading.
fn choose<'a>(dependencies: &'a str, builtin: &str) -> Result<Vec<&'a str>> {
    let lines: Vec<(&str, &str)> = dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let mut chosen = Vec::new();
    let mut seen = BTreeSet::new();
    for name in USEFUL[..1].iter().chain(&NEEDED).chain(&USEFUL[1..]) {
        let Some((module, before)) = lines.iter().find(|(path, _)| is(path, name)) else {
            if NEEDED.contains(name) && !builtin.lines().any(|path| is(path, name)) {
                bail!("it has no `{name}`");
            }
            continue;
        };
        // Every module lists all that it needs, the one to load first last.
        for path in before.split_ascii_whitespace().rev().chain([*module]) {
            if seen.insert(path) {
                chosen.push(path);
            }
        }
    }
    Ok(chosen)
}

/// Whether the file at `path` is the module `name`; `-` and `_` are the same in names of modules.
fn is(path: &str, name: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split('.').next().unwrap_or(file);
    stem.len() == name.len() && stem.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/drivers/virtio/virtio_ring.ko:\n\
        kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko\n\
        kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n\
        kernel/drivers/char/virtio_console.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko\n\
        kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio_ring.ko\n\
        kernel/drivers/block/virtio_blk.ko:\n\
        kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let chosen = choose(DEPENDENCIES, "kernel/fs/overlayfs/overlay.ko\n").unwrap();
        let names: Vec<&str> = chosen.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
        let expected = [
            "virtio_ring.ko",
            "virtio.ko",
            "virtio_mmio.ko",
            "virtio_console.ko",
            "virtio_blk.ko",
            "libcrc32c.ko",
            "erofs.ko",
            "virtio-rng.ko",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_kernel_that_lacks_one_is_refused() {
        assert_eq!(choose(DEPENDENCIES, "").unwrap_err().to_string(), "it has no `overlay`");
        assert!(of(Path::new("/somewhere/vmlinux")).unwrap().is_empty());
    }
}
