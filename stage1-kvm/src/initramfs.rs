//! The initramfs: stage2 as `/init`, `pod.json`, `guest.json`, and the kernel's modules. Written as a newc cpio archive into
//! sealed memory, so that what boots cannot change under the hypervisor.

use crate::kernel_modules;
use crate::plan::{VmPlan, module_path};
use anyhow::{Context, Result};
use contract::guest;
use contract::pod::Pod;
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Builds the archive for this pod.
pub(crate) fn build(pod: &Pod, plan: &VmPlan) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = File::from(rustix::fs::memfd_create("initramfs", flags).context("make memory for the initramfs")?);
    let mut archive = Archive { out: BufWriter::new(memory), written: 0, inode: 0 };
    for directory in ["dev", "proc", "sys", "run", "apps", "volumes", "modules"] {
        archive.directory(directory)?;
    }
    // The kernel opens it before init runs, to give init its standard streams; where there is no console, init opens the
    // second in their place. The third takes its last words.
    archive.device("dev/console", 5, 1)?;
    archive.device("dev/null", 1, 3)?;
    archive.device("dev/kmsg", 1, 11)?;
    archive.copy("init", 0o755, &stage2()?)?;
    archive.file(name(guest::POD), 0o600, &serde_json::to_vec(pod)?)?;
    archive.file(name(guest::GUEST), 0o600, &serde_json::to_vec(&plan.guest)?)?;
    for (index, module) in plan.kernel.modules.iter().enumerate() {
        archive.file(name(&module_path(index).to_string_lossy()), 0o600, &kernel_modules::read(module)?)?;
    }
    archive.entry(&Entry { name: "TRAILER!!!", mode: 0, links: 1, device: (0, 0), size: 0 })?;
    let mut memory = archive.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    memory.rewind()?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals).context("seal the initramfs")?;
    Ok(memory)
}

/// The archive has no leading slashes.
fn name(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// stage2 lies beside this program.
fn stage2() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    Ok(own.with_file_name("stage2"))
}

struct Entry<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    size: u64,
}

struct Archive<W: Write> {
    out: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(&Entry { name, mode: 0o040_755, links: 2, device: (0, 0), size: 0 })
    }

    fn device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(&Entry { name, mode: 0o020_600, links: 1, device: (major, minor), size: 0 })
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(&Entry { name, mode: 0o100_000 | mode, links: 1, device: (0, 0), size: content.len() as u64 })?;
        self.write(content)?;
        self.pad()
    }

    /// The file at `path`, which the kernel copies.
    fn copy(&mut self, name: &str, mode: u32, path: &Path) -> Result<()> {
        let context = || format!("copy `{}` into the initramfs", path.display());
        let file = File::open(path).with_context(context)?;
        let size = file.metadata().with_context(context)?.len();
        self.entry(&Entry { name, mode: 0o100_000 | mode, links: 1, device: (0, 0), size })?;
        let copied = std::io::copy(&mut file.take(size), &mut self.out).with_context(context)?;
        anyhow::ensure!(copied == size, "`{}` became shorter while it was read", path.display());
        self.written += copied;
        self.pad()
    }

    /// The header. Documentation/driver-api/early-userspace/buffer-format.rst: eight hexadecimal digits a field; header with
    /// name, and content, each padded to four bytes.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.inode += 1;
        let Entry { name, mode, links, device: (major, minor), size } = *entry;
        let size = u32::try_from(size).context("a file of the initramfs is too long")?;
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, u32::try_from(name.len() + 1)?, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(b"\0")?;
        self.pad()
    }

    fn pad(&mut self) -> Result<()> {
        let zeros = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..usize::try_from(zeros)?])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context("write the initramfs")?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_newc() {
        let mut archive = Archive { out: Vec::new(), written: 0, inode: 0 };
        archive.directory("dev").unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hello").unwrap();
        archive.copy("init", 0o755, file.path()).unwrap();
        let bytes = archive.out;
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        let second = 110 + 4 + 2;
        assert_eq!(&bytes[second..second + 6], b"070701");
        assert_eq!(&bytes[second + 54..second + 62], b"00000005");
        assert_eq!(&bytes[second + 110..second + 116], b"init\0\0");
        assert_eq!(&bytes[second + 116..], b"hello\0\0\0");
    }
}
