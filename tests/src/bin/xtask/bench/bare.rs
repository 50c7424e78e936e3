//! The least that a guest can do: the same kernel, the same machine of qemu's, and an init that says one line and ends the machine.

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A command line of qemu that boots it.
pub(crate) struct Bare {
    program: String,
    arguments: Vec<String>,
}

/// What is taken over from the pod's own qemu: each option with its value.
const SAME: [&str; 7] = ["-M", "-accel", "-cpu", "-m", "-smp", "-append", "-object"];

impl Bare {
    /// As the qemu of a running pod was started, but for what our stage2 needs: the disk, the channel and the jail.
    pub(crate) fn beside(process: u32, directory: &Path) -> Result<Self> {
        let line = fs::read_to_string(format!("/proc/{process}/cmdline"))?;
        let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
        let program = (*words.first().context("the pod's qemu has no command line")?).to_owned();
        let mut arguments: Vec<String> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned).to_vec();
        let pairs = words.windows(2).filter(|pair| SAME.contains(&pair[0]) && !pair[1].starts_with("rng-builtin"));
        arguments.extend(pairs.flatten().map(|word| (*word).to_owned()));
        let initramfs = directory.join("bare.cpio");
        fs::write(&initramfs, archive()?)?;
        let kernel = PathBuf::from(tests::kernels::OWN);
        let files =
            ["-kernel", &kernel.display().to_string(), "-initrd", &initramfs.display().to_string(), "-serial", "stdio"];
        arguments.extend(files.map(str::to_owned));
        Ok(Self { program, arguments })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

fn archive() -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (name, mode, content, device) in [
        ("dev", 0o040_755, &b""[..], (0, 0)),
        ("dev/kmsg", 0o020_600, b"", (1, 11)),
        ("init", 0o100_755, &init(), (0, 0)),
    ] {
        let builder = Builder::new(name).mode(mode).nlink(1).rdev_major(device.0).rdev_minor(device.1);
        let mut writer = builder.write(&mut out, u32::try_from(content.len())?);
        writer.write_all(content)?;
        writer.finish()?;
    }
    trailer(&mut out)?;
    Ok(out)
}

/// A static ELF program of one segment: opens /dev/kmsg, writes a line that is shown even with `quiet`, and restarts, which
/// ends a qemu that was told so.
fn init() -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let path = b"/dev/kmsg\0";
    let text = b"<0>bare init\n";
    let code_length: u64 = 78;
    let (path_at, text_at) = (ADDRESS + HEADERS + code_length, ADDRESS + HEADERS + code_length + path.len() as u64);
    let small = |at: u64| u32::try_from(at).expect("a low address").to_le_bytes();
    let mut code = Vec::new();
    let mut put = |bytes: &[u8]| code.extend_from_slice(bytes);
    put(&[0xbf]); // mov edi, path
    put(&small(path_at));
    put(&[0xbe, 1, 0, 0, 0]); // mov esi, O_WRONLY
    put(&[0xb8, 2, 0, 0, 0]); // mov eax, open
    put(&[0x0f, 0x05]); // syscall
    put(&[0x89, 0xc7]); // mov edi, eax
    put(&[0xbe]); // mov esi, text
    put(&small(text_at));
    put(&[0xba, u8::try_from(text.len()).expect("a short text"), 0, 0, 0]); // mov edx, length
    put(&[0xb8, 1, 0, 0, 0]); // mov eax, write
    put(&[0x0f, 0x05]); // syscall
    put(&[0xbf, 0xad, 0xde, 0xe1, 0xfe]); // mov edi, LINUX_REBOOT_MAGIC1
    put(&[0xbe, 0x69, 0x19, 0x12, 0x28]); // mov esi, LINUX_REBOOT_MAGIC2
    put(&[0xba, 0x67, 0x45, 0x23, 0x01]); // mov edx, LINUX_REBOOT_CMD_RESTART
    put(&[0xb8, 169, 0, 0, 0]); // mov eax, reboot
    put(&[0x0f, 0x05]); // syscall
    put(&[0xeb, 0xfe]); // jmp $
    code.resize(usize::try_from(code_length).expect("a short program"), 0xcc);
    let length = HEADERS + code_length + (path.len() + text.len()) as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([ADDRESS + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    file.extend([0, ADDRESS, ADDRESS, length, length, 0x1000].map(u64::to_le_bytes).concat());
    [file, code, path.to_vec(), text.to_vec()].concat()
}
