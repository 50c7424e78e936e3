//! Puts a kernel and its initramfs into guest memory and says how its first CPU must start. An ELF kernel is entered by its
//! PVH note (32-bit, no paging), a bzImage by its 64-bit entry. The files come from the host, but may be of the user's making:
//! all arithmetic on their headers is checked here or in the loader crate.

use super::memory::{self, Memory};
use anyhow::{Context, Result, bail, ensure};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::{Elf, PvhBootCapability, start_info};
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use std::fs::File;
use std::io::{Read, Seek};
use vm_memory::{Bytes, GuestAddress};

/// xen/include/public/arch-x86/hvm/start_info.h
const PVH_MAGIC: u32 = 0x336e_c578;
/// The 64-bit entry lies this far into the loaded kernel (Documentation/arch/x86/boot.rst).
const ENTRY_64: u64 = 0x200;
/// `xloadflags`: the kernel has a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// A kernel that gives no limit for its initramfs.
const INITRAMFS_LIMIT_DEFAULT: u64 = 0x37ff_ffff;

/// How the first CPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// 32-bit protected mode at this address, start info in EBX.
    Pvh(u64),
    /// 64-bit long mode at this address, zero page in RSI.
    Long(u64),
}

/// What is put into memory.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// ELF or bzImage.
    pub(super) kernel: &'a mut File,
    /// cpio archive.
    pub(super) initramfs: &'a mut File,
    /// Without the terminating NUL.
    pub(super) command_line: &'a str,
    /// Where the ACPI root pointer is.
    pub(super) rsdp: u64,
}

/// Loads everything.
pub(super) fn load(memory: &Memory, bytes: u64, files: &mut Files<'_>) -> Result<Entry> {
    let mut magic = [0; 4];
    files.kernel.read_exact(&mut magic).context("read the guest kernel")?;
    files.kernel.rewind().context("read the guest kernel")?;
    let line = [files.command_line.as_bytes(), b"\0"].concat();
    memory.write_slice(&line, GuestAddress(memory::COMMAND_LINE)).context("write the kernel command line")?;
    if magic == *b"\x7fELF" { pvh(memory, bytes, files) } else { bzimage(memory, bytes, files) }
}

fn pvh(memory: &Memory, bytes: u64, files: &mut Files<'_>) -> Result<Entry> {
    let start = Some(GuestAddress(memory::HIGH_START));
    let loaded = Elf::load(memory, None, files.kernel, start).map_err(cause)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        bail!("the guest kernel has no PVH entry; build it with CONFIG_PVH");
    };
    ensure_loaded(entry.0, loaded.kernel_end)?;
    let (address, length) = load_initramfs(memory, bytes, files.initramfs, &loaded, INITRAMFS_LIMIT_DEFAULT)?;
    let module = start_info::hvm_modlist_entry { paddr: address, size: length, ..Default::default() };
    memory.write_obj(module, GuestAddress(memory::MODULES)).context("write the list of modules")?;
    let entries = memory::map_entries(bytes);
    for (index, (addr, size, kind)) in (0_u64..).zip(entries.iter().copied()) {
        let entry = start_info::hvm_memmap_table_entry { addr, size, type_: kind as u32, reserved: 0 };
        let at = memory::MEMORY_MAP + index * size_of::<start_info::hvm_memmap_table_entry>() as u64;
        memory.write_obj(entry, GuestAddress(at)).context("write the memory map")?;
    }
    let info = start_info::hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: 1,
        modlist_paddr: memory::MODULES,
        cmdline_paddr: memory::COMMAND_LINE,
        rsdp_paddr: files.rsdp,
        memmap_paddr: memory::MEMORY_MAP,
        memmap_entries: u32::try_from(entries.len())?,
        ..Default::default()
    };
    memory.write_obj(info, GuestAddress(memory::START_INFO)).context("write the start info")?;
    Ok(Entry::Pvh(entry.0))
}

fn bzimage(memory: &Memory, bytes: u64, files: &mut Files<'_>) -> Result<Entry> {
    let start = Some(GuestAddress(memory::HIGH_START));
    let loaded = BzImage::load(memory, None, files.kernel, start).map_err(cause)?;
    let mut header: setup_header = loaded.setup_header.context("the guest kernel has no set-up header")?;
    // The header counts in units of 16 bytes what must follow it.
    if loaded.kernel_end - loaded.kernel_load.0 < u64::from(header.syssize) * 16 {
        bail!("the file of the guest kernel is truncated");
    }
    if header.version < 0x020c || header.xloadflags & XLF_KERNEL_64 == 0 {
        bail!("the guest kernel has no 64-bit entry");
    }
    ensure_loaded(loaded.kernel_load.0 + ENTRY_64, loaded.kernel_end)?;
    // It unpacks itself at its preferred address and needs room there before it knows of the initramfs.
    let unpacked =
        header.pref_address.checked_add(u64::from(header.init_size)).context("read the guest kernel's header")?;
    let loaded = KernelLoaderResult { kernel_end: loaded.kernel_end.max(unpacked), ..loaded };
    let limit = u64::from(header.initrd_addr_max);
    let (address, length) = load_initramfs(memory, bytes, files.initramfs, &loaded, limit)?;
    // 0xff: a boot loader without a number of its own.
    header.type_of_loader = 0xff;
    header.cmd_line_ptr = u32::try_from(memory::COMMAND_LINE)?;
    header.cmdline_size = u32::try_from(files.command_line.len())?;
    header.ramdisk_image = u32::try_from(address)?;
    header.ramdisk_size = u32::try_from(length)?;
    let mut zero_page = boot_params { hdr: header, acpi_rsdp_addr: files.rsdp, ..Default::default() };
    let entries = memory::map_entries(bytes);
    for (slot, (addr, size, kind)) in zero_page.e820_table.iter_mut().zip(&entries) {
        *slot = boot_e820_entry { addr: *addr, size: *size, r#type: *kind as u32 };
    }
    zero_page.e820_entries = u8::try_from(entries.len())?;
    memory.write_obj(zero_page, GuestAddress(memory::START_INFO)).context("write the zero page")?;
    page_tables(memory)?;
    Ok(Entry::Long(loaded.kernel_load.0 + ENTRY_64))
}

/// A CPU that starts where nothing was loaded meets a triple fault, which says nothing to a person.
fn ensure_loaded(entry: u64, end: u64) -> Result<()> {
    let loaded = memory::HIGH_START..end;
    ensure!(loaded.contains(&entry), "the guest kernel's entry at {entry:#x} lies outside of the kernel");
    Ok(())
}

/// The loader says everything twice; the innermost cause is what a person needs.
fn cause(error: linux_loader::loader::Error) -> anyhow::Error {
    use linux_loader::loader::Error;
    match error {
        Error::Elf(error) => anyhow::anyhow!("load the guest kernel as an ELF file: {error:?}"),
        Error::Bzimage(error) => {
            anyhow::anyhow!("load the guest kernel, which is no ELF file, as a bzImage: {error:?}")
        }
        error => anyhow::anyhow!("load the guest kernel: {error:?}"),
    }
}

fn load_initramfs(
    memory: &Memory,
    bytes: u64,
    file: &mut File,
    kernel: &KernelLoaderResult,
    limit: u64,
) -> Result<(u64, u64)> {
    let length = file.metadata().context("read the initramfs")?.len();
    let address = memory::place_high(bytes, length, limit, kernel.kernel_end)?;
    memory
        .read_exact_volatile_from(GuestAddress(address), file, usize::try_from(length)?)
        .context("load the initramfs")?;
    Ok((address, length))
}

/// The first 4 GiB by 2 MiB pages, each at its own address: all that the 64-bit entry asks for.
pub(super) fn page_tables(memory: &Memory) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let write = |value: u64, at: u64| memory.write_obj(value, GuestAddress(at)).context("write page tables");
    let third = memory::PAGE_TABLES + 0x2000;
    write((memory::PAGE_TABLES + 0x1000) | PRESENT_WRITABLE, memory::PAGE_TABLES)?;
    for gibibyte in 0..4 {
        write((third + gibibyte * 0x1000) | PRESENT_WRITABLE, memory::PAGE_TABLES + 0x1000 + gibibyte * 8)?;
    }
    for page in 0..4 * 512 {
        write((page << 21) | PRESENT_WRITABLE | LARGE, third + page * 8)?;
    }
    Ok(())
}

/// What the maker of a kernel may write.
#[cfg(any(test, feature = "hostile"))]
pub(crate) mod hostile {
    use super::*;
    use std::io::Write;

    const BYTES: u64 = 4 << 20;

    /// Any bytes are refused, or loaded within memory with an entry that was loaded.
    pub(crate) fn kernel(bytes: &[u8]) {
        if let Ok(Entry::Pvh(entry) | Entry::Long(entry)) = load_bytes(bytes, BYTES) {
            assert!((memory::HIGH_START..BYTES).contains(&entry), "the entry {entry:#x} is outside of memory");
        }
    }

    pub(super) fn load_bytes(kernel: &[u8], bytes: u64) -> Result<Entry> {
        let memory = memory::map(bytes, false)?;
        let (mut image, mut initramfs) = (file(kernel), file(b"archive"));
        let mut files = Files { kernel: &mut image, initramfs: &mut initramfs, command_line: "quiet", rsdp: 0xe_0000 };
        load(&memory, bytes, &mut files)
    }

    fn file(content: &[u8]) -> File {
        let mut file =
            File::from(rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).expect("a memory file"));
        file.write_all(content).expect("a memory file");
        file.rewind().expect("a memory file");
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_bytes(kernel: &[u8]) -> Result<Entry> {
        hostile::load_bytes(kernel, 64 << 20)
    }

    /// Type, offset in the file, physical address, bytes in the file and in memory, of each program header; then 4 KiB with a
    /// PVH note of this entry at their start.
    fn elf(segments: &[(u32, u64, u64, u64, u64)], entry: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[24..32].copy_from_slice(&memory::HIGH_START.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (kind, offset, address, in_file, in_memory) in segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend([0; 4]);
            for field in [offset, &0, address, in_file, in_memory, &0] {
                bytes.extend(field.to_le_bytes());
            }
        }
        bytes.resize(0x1000, 0);
        bytes.extend([4_u32, 4, 18].iter().flat_map(|field| field.to_le_bytes()));
        bytes.extend(b"Xen\0");
        bytes.extend(entry.to_le_bytes());
        bytes.resize(0x2000, 0x90);
        bytes
    }

    const LOAD: u32 = 1;
    const NOTE: u32 = 4;

    #[test]
    fn an_elf_kernel_starts_at_its_note() {
        let segments = [(LOAD, 0x1000, 0x10_0000, 0x1000, 0x2000), (NOTE, 0x1000, 0, 20, 20)];
        assert_eq!(load_bytes(&elf(&segments, 0x10_0200)).unwrap(), Entry::Pvh(0x10_0200));
        for outside in [0, 0xf_ffff, 0x10_2000, u32::MAX] {
            let error = load_bytes(&elf(&segments, outside)).unwrap_err().to_string();
            assert!(error.contains("outside of the kernel"), "{error}");
        }
    }

    // linux-loader GHSA-52h2-m2cf-9jh6 (CVE-2022-23523): headers that point beyond the end of the file made a loop without end.
    #[test]
    fn ghsa_52h2_m2cf_9jh6_headers_beyond_the_end_are_refused() {
        let good = (LOAD, 0x1000, 0x10_0000, 0x1000, 0x1000);
        for bad in [
            (LOAD, 0x1_0000, 0x10_0000, 0x1000, 0x1000),
            (LOAD, u64::MAX, 0x10_0000, 0x1000, 0x1000),
            (LOAD, 0x1000, 0x10_0000, u64::MAX, u64::MAX),
            (LOAD, 0x1000, 0x10_0000, 0x10_0000, 0x10_0000),
            (LOAD, 0x1000, u64::MAX - 0xfff, 0x1000, 0x1000),
            (LOAD, 0x1000, 0x10_0000, 0x1000, u64::MAX),
            (LOAD, 0x1000, 64 << 20, 0x1000, 0x1000),
            (NOTE, 0x1_0000, 0, 20, 20),
            (NOTE, u64::MAX, 0, u64::MAX, 0),
            (NOTE, 0x1014, 0, u64::MAX, 0),
        ] {
            let error = load_bytes(&elf(&[good, bad], 0x10_0000)).unwrap_err();
            assert!(
                error.to_string().contains("guest kernel") || error.to_string().contains("guest memory"),
                "{error}"
            );
        }
        let mut headers = elf(&[good, (NOTE, 0x1000, 0, 20, 20)], 0x10_0000);
        for (at, value) in [(32, u64::MAX), (32, 0x2000), (32, 0x1fff), (56, 0xffff)] {
            let kept = headers.clone();
            let length = if at == 56 { 2 } else { 8 };
            headers[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            assert!(load_bytes(&headers).is_err(), "{at} {value:#x}");
            headers = kept;
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut corrupt = vec![0; 4096];
        corrupt[..4].copy_from_slice(b"\x7fELF");
        for bytes in [&b""[..], b"\x7fELF", b"not a kernel", &[0; 4096], &corrupt] {
            assert!(load_bytes(bytes).is_err());
        }
    }

    #[test]
    fn a_header_that_points_out_of_memory_is_refused() {
        let mut image = vec![0; 64 << 10];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x211] = 1;
        image[0x236] = 1;
        for code32_start in [0_u32, 0x10_0000, 0xffff_0000] {
            image[0x214..0x218].copy_from_slice(&code32_start.to_le_bytes());
            image[0x22c..0x230].copy_from_slice(&u32::MAX.to_le_bytes());
            image[0x258..0x260].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(load_bytes(&image).is_err());
        }
    }
}
