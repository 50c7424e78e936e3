//! The machine's initramfs: this executable as `/init`, the modules, and the job.

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the guest finds the job, one word a line, without line breaks in words: who starts it, the working directory, the
/// number of variables, those, and the command.
pub(super) const JOB: &str = "/job";
/// Where the guest finds the modules, in the order of loading.
pub(super) const MODULES: &str = "/modules";

/// Writes the archive to `out`.
pub(super) fn write(out: impl Write, init: &Path, modules: &[PathBuf], job: &str) -> Result<()> {
    let mut out = std::io::BufWriter::new(out);
    for directory in ["dev", "proc", "sys", "modules", "host", "layer", "root"] {
        entry(&mut out, directory, 0o040_755, b"", (0, 0))?;
    }
    entry(&mut out, "dev/console", 0o020_600, b"", (5, 1))?;
    entry(&mut out, "dev/null", 0o020_666, b"", (1, 3))?;
    entry(&mut out, "init", 0o100_755, &read(init)?, (0, 0))?;
    entry(&mut out, &JOB[1..], 0o100_600, job.as_bytes(), (0, 0))?;
    for (index, module) in modules.iter().enumerate() {
        let suffix = module.extension().unwrap_or_default().to_string_lossy();
        entry(&mut out, &format!("{}/{index:03}.{suffix}", &MODULES[1..]), 0o100_600, &read(module)?, (0, 0))?;
    }
    trailer(&mut out).context("write the initramfs")?;
    out.flush().context("write the initramfs")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read `{}`", path.display()))
}

fn entry(out: &mut impl Write, name: &str, mode: u32, content: &[u8], device: (u32, u32)) -> Result<()> {
    let size = u32::try_from(content.len()).with_context(|| format!("`{name}` is too long"))?;
    let builder = Builder::new(name).mode(mode).nlink(1).rdev_major(device.0).rdev_minor(device.1);
    let mut writer = builder.write(out, size);
    writer.write_all(content).with_context(|| format!("write `{name}`"))?;
    writer.finish().with_context(|| format!("write `{name}`"))?;
    Ok(())
}
