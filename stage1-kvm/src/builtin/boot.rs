//! Puts a kernel and its initramfs into guest memory and says how its first CPU must start. An ELF kernel is entered by its
//! PVH note (32-bit, no paging), a bzImage by its 64-bit entry. The files come from the host, but may be of the user's making:
//! all arithmetic on their headers is checked here or in the loader crate.

use super::memory::{self, Memory};
use anyhow::{Context, Result, bail};
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn load_bytes(kernel: &[u8]) -> Result<Entry> {
        let memory = memory::map(64 << 20, false)?;
        let mut file = tempfile(kernel);
        let mut initramfs = tempfile(b"archive");
        let mut files = Files { kernel: &mut file, initramfs: &mut initramfs, command_line: "quiet", rsdp: 0xe_0000 };
        load(&memory, 64 << 20, &mut files)
    }

    fn tempfile(content: &[u8]) -> File {
        let mut file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
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
