//! Guest kernels for tests: the ones that machines are started with, and some that no machine can be happy with.

use std::path::PathBuf;

/// The project's own, where `stage1-kvm/kernel/build` leaves it.
pub const OWN: &str = "/var/cache/pod/kernel/vmlinux";

/// Debian's unmodified kernel for virtual machines, a bzImage: the newest whose modules are installed.
pub fn debian() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/boot").ok()?.flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_debians(path)).collect();
    found.sort();
    found.pop()
}

fn is_debians(path: &std::path::Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version = name.strip_prefix("vmlinuz-").filter(|version| version.ends_with("-cloud-amd64"));
    version.is_some_and(|version| std::path::Path::new("/lib/modules").join(version).is_dir())
}

/// An ELF kernel whose PVH entry is this machine code, run by the first CPU in 32-bit protected mode.
pub fn of_code(code: &[u8]) -> Vec<u8> {
    const ADDRESS: u64 = 0x100_0000;
    const CODE_AT: u64 = 0x1000;
    const NOTE_AT: u64 = 64 + 2 * 56;
    let half = u16::to_le_bytes;
    let word = u32::to_le_bytes;
    let long = u64::to_le_bytes;
    // Elf64_Ehdr: little-endian, an executable for x86-64, two program headers behind it.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([half(2), half(62)].concat());
    file.extend(word(1));
    file.extend([long(ADDRESS), long(64), long(0)].concat());
    file.extend(word(0));
    file.extend([half(64), half(56), half(2), half(64), half(0), half(0)].concat());
    // Elf64_Phdr of the code: kind, flags, offset, two addresses, two sizes, alignment.
    let length = code.len() as u64;
    file.extend([word(1), word(5)].concat());
    file.extend([long(CODE_AT), long(ADDRESS), long(ADDRESS), long(length), long(length), long(0x1000)].concat());
    // Of the note that names the entry: Xen's, kind 18, an address of eight bytes.
    file.extend([word(4), word(4)].concat());
    file.extend([long(NOTE_AT), long(0), long(0), long(24), long(24), long(4)].concat());
    file.extend([word(4), word(8), word(18)].concat());
    file.extend(b"Xen\0");
    file.extend(long(ADDRESS));
    file.resize(CODE_AT as usize, 0);
    file.extend(code);
    file
}

/// `cli; hlt` for ever: a machine that does not start.
pub fn that_hangs() -> Vec<u8> {
    of_code(&[0xfa, 0xf4, 0xeb, 0xfc])
}

/// An interrupt table of no length, read from memory that nobody has written to, and an invalid instruction: a triple fault.
pub fn that_faults() -> Vec<u8> {
    // mov esp, 0x1100000; lidt [esp]; ud2
    of_code(&[0xbc, 0x00, 0x00, 0x10, 0x01, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b])
}
