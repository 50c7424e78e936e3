//! The modules that a distribution's kernel needs to find its devices and roots, from the directory that its package installed.
//! Pure but for two small files: `modules.dep` and `modules.builtin`, whose form is depmod's (man modules.dep).

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// What stage2 cannot do without.
const NEEDED: [&str; 5] = ["virtio_mmio", "virtio_console", "virtio_blk", "erofs", "overlay"];
/// What a guest with a network card cannot do without, either.
const CARD: &str = "virtio_net";
/// What some kernels have elsewhere or not at all. The checksum is one that others look up by name when they start.
const USEFUL: [&str; 5] = ["crc32c_generic", "virtio_rng", "fuse", "virtiofs", "virtio_balloon"];

/// A module larger than this is not one.
const MODULE_BYTES_MAX: u64 = 64 << 20;
/// Largest dictionary, in KiB: what `xz -9` makes, and a little.
const XZ_KIB_MAX: u32 = 80 << 10;

/// The modules for the kernel in `file`, dependencies first; none for one that no package of modules belongs to. `card`: the guest
/// has a network card.
pub(crate) fn of(file: &Path, card: bool) -> Result<Vec<PathBuf>> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(version) = name.strip_prefix("vmlinuz-") else { return Ok(Vec::new()) };
    let directory = Path::new("/lib/modules").join(version);
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))
    };
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let paths = choose(&dependencies, &builtin, card)
        .with_context(|| format!("the kernel `{}` cannot boot a pod", file.display()))?;
    Ok(paths.into_iter().map(|path| directory.join(path)).collect())
}

/// The content of a module, plain however its package compressed it: whether a guest's kernel could unpack it is its own matter
/// (`CONFIG_MODULE_DECOMPRESS`), and this way it need not.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>> {
    let context = || format!("read the module `{}`", file.display());
    let packed = BufReader::new(File::open(file).with_context(context)?);
    plain(packed, file.extension().and_then(|suffix| suffix.to_str())).with_context(context)
}

fn plain(packed: impl BufRead, suffix: Option<&str>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = match suffix {
        Some("ko") => packed.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes),
        Some("xz") => {
            let unpacked = lzma_rust2::XzReader::new_mem_limit(packed, false, XZ_KIB_MAX);
            unpacked.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes)
        }
        Some("zst") => zstd::Decoder::with_buffer(packed)?.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes),
        _ => bail!("it is compressed in a way that is not known here"),
    };
    ensure!(length? as u64 <= MODULE_BYTES_MAX, "it is longer than {} MiB", MODULE_BYTES_MAX >> 20);
    Ok(bytes)
}

/// Paths relative to the modules' directory, in the order of loading.
fn choose<'a>(dependencies: &'a str, builtin: &str, card: bool) -> Result<Vec<&'a str>> {
    let needed: Vec<&str> = NEEDED.into_iter().chain(card.then_some(CARD)).collect();
    let lines: Vec<(&str, &str)> = dependencies.lines().filter_map(|line| line.split_once(':')).collect();
    let mut chosen = Vec::new();
    let mut seen = BTreeSet::new();
    for name in USEFUL[..1].iter().chain(&needed).chain(&USEFUL[1..]) {
        let Some((module, before)) = lines.iter().find(|(path, _)| is(path, name)) else {
            if needed.contains(name) && !builtin.lines().any(|path| is(path, name)) {
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
        let chosen = choose(DEPENDENCIES, "kernel/fs/overlayfs/overlay.ko\n", false).unwrap();
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
    fn modules_are_unpacked() {
        const PLAIN: &[u8] = b"\x7fELF a module\n";
        let xz = b"\xfd7zXZ\x00\x00\x01i\x22\xde6\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x0d\x7fELF a module\x0a\x00\x00\x00A\xd4G\xa1\x00\x01\x22\x0e\x0c\xde\x8c`\x90B\x99\x0d\x01\x00\x00\x00\x00\x01YZ";
        let zst = zstd::encode_all(PLAIN, 3).unwrap();
        for (packed, suffix) in [(PLAIN, "ko"), (&xz[..], "xz"), (&zst[..], "zst")] {
            assert_eq!(plain(packed, Some(suffix)).unwrap(), PLAIN, "{suffix}");
        }
        for (packed, suffix) in [(&xz[..40], "xz"), (&zst[..9], "zst"), (PLAIN, "xz"), (PLAIN, "zst"), (PLAIN, "gz")] {
            assert!(plain(packed, Some(suffix)).is_err(), "{suffix}");
        }
        // A bomb ends at the limit.
        let bomb = zstd::encode_all(std::io::repeat(0).take(MODULE_BYTES_MAX + 2), 3).unwrap();
        assert!(plain(&bomb[..], Some("zst")).unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn a_kernel_that_lacks_one_is_refused() {
        assert_eq!(choose(DEPENDENCIES, "", false).unwrap_err().to_string(), "it has no `overlay`");
        let error = choose(DEPENDENCIES, "kernel/fs/overlayfs/overlay.ko\n", true).unwrap_err();
        assert_eq!(error.to_string(), "it has no `virtio_net`");
        assert!(of(Path::new("/somewhere/vmlinux"), true).unwrap().is_empty());
    }
}
