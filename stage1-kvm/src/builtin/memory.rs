//! Where things are in the guest's physical address space, and its memory.

use super::sys;
use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use vm_memory::mmap::FromRangesError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Guest memory. No dirty tracking: there is no migration.
pub(super) type Memory = GuestMemoryMmap<()>;

/// RAM stops here and goes on at 4 GiB; between are the devices, the APICs and the place of a firmware.
pub(super) const HOLE_START: u64 = 0xc000_0000;
/// RAM goes on here.
pub(super) const HOLE_END: u64 = 1 << 32;
/// Conventional memory ends here: the extended BIOS data area is the kernel's first taboo.
pub(super) const LOW_END: u64 = 0x9_fc00;
/// Kernels are loaded from here.
pub(super) const HIGH_START: u64 = 0x10_0000;
/// `hvm_start_info` or the zero page.
pub(super) const START_INFO: u64 = 0x7000;
/// PVH's list of modules (the initramfs).
pub(super) const MODULES: u64 = 0x8000;
/// PVH's memory map.
pub(super) const MEMORY_MAP: u64 = 0x8100;
/// Page tables of the 64-bit entry: one page of each upper level, four of the third.
pub(super) const PAGE_TABLES: u64 = 0x9000;
/// Global descriptor table.
pub(super) const DESCRIPTORS: u64 = 0x1_0000;
/// Kernel command line.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// ACPI tables, in what a PC calls the BIOS area; reserved in the memory map.
pub(super) const ACPI_START: u64 = 0xe_0000;
/// End of the BIOS area.
pub(super) const ACPI_END: u64 = HIGH_START;
/// Of x86-64, in bytes.
const LARGE_PAGE: usize = 2 << 20;
/// First virtio-mmio device.
pub(super) const DEVICES: u64 = 0xd000_0000;
/// Bytes of address space of each.
pub(super) const DEVICE_BYTES: u64 = 0x1000;

/// The ranges of RAM: start and length.
pub(super) fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= HOLE_START {
        return vec![(0, bytes)];
    }
    vec![(0, HOLE_START), (HOLE_END, bytes - HOLE_START)]
}

/// Maps the memory. `shared`: backed by a memory file, which a device in another process can map too.
pub(super) fn map(bytes: u64, shared: bool) -> Result<Memory> {
    let ranges: Vec<(GuestAddress, usize)> = ranges(bytes)
        .into_iter()
        .map(|(start, length)| Ok((GuestAddress(start), usize::try_from(length)?)))
        .collect::<Result<_>>()?;
    let context = || format!("map {} MiB of guest memory", bytes >> 20);
    if !shared {
        let memory = private(&ranges).with_context(context)?;
        sys::prefer_large_pages(&memory);
        sys::leave_out_of_core_files(&memory);
        return Ok(memory);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("guest", flags).with_context(context)?);
    file.set_len(bytes).with_context(context)?;
    // virtiofsd has it too: a file that it could shorten would end this process by SIGBUS.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).with_context(context)?;
    let mut offset = 0;
    let mut with_files = Vec::new();
    for (start, length) in ranges {
        let file = file.try_clone().with_context(context)?;
        with_files.push((start, length, Some(FileOffset::new(file, offset))));
        offset += length as u64;
    }
    let memory = Memory::from_ranges_with_files(with_files).with_context(context)?;
    sys::leave_out_of_core_files(&memory);
    Ok(memory)
}

/// Private memory at an address where a large page of the host is one of the guest too. A guest touches its memory page by page, and
/// each first touch is an exit; of large pages there are few. Linux aligns such mappings since 6.7; before, it puts each below the one
/// before, so that one as long as the excess moves the next to where it should be. If not, it is only slower.
fn private(ranges: &[(GuestAddress, usize)]) -> Result<Memory, FromRangesError> {
    let memory = Memory::from_ranges(ranges)?;
    let host = memory.get_host_address(GuestAddress(0)).map_or(0, <*mut u8>::addr);
    if host.is_multiple_of(LARGE_PAGE) {
        return Ok(memory);
    }
    drop(memory);
    let _spacer = Memory::from_ranges(&[(GuestAddress(0), host % LARGE_PAGE)])?;
    Memory::from_ranges(ranges)
}

/// What an entry of the memory map means, as e820 and PVH number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The kernel's to use.
    Ram = 1,
    /// Keep away.
    Reserved = 2,
}

/// The memory map that the kernel is told: start, length, kind.
pub(super) fn map_entries(bytes: u64) -> Vec<(u64, u64, Kind)> {
    let mut entries = vec![
        (0, LOW_END, Kind::Ram),
        (ACPI_START, ACPI_END - ACPI_START, Kind::Reserved),
        (HIGH_START, bytes.min(HOLE_START) - HIGH_START, Kind::Ram),
    ];
    if bytes > HOLE_START {
        entries.push((HOLE_END, bytes - HOLE_START, Kind::Ram));
    }
    entries
}

/// The highest page-aligned place for `length` bytes that a kernel of any kind reaches, above what is `used`.
pub(super) fn place_high(bytes: u64, length: u64, limit: u64, used: u64) -> Result<u64> {
    let top = bytes.min(HOLE_START).min(limit);
    match top.checked_sub(length).map(|start| start & !0xfff) {
        Some(start) if start >= used => Ok(start),
        _ => bail!("{} MiB of guest memory do not hold the kernel and its initramfs", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{GuestMemoryRegion, MemoryRegionAddress};

    #[test]
    fn memory_is_in_no_core_file_and_keeps_its_size() {
        for shared in [false, true] {
            let memory = map(4 << 20, shared).unwrap();
            let start = memory.get_host_address(GuestAddress(0)).unwrap().addr();
            // `dd`: MADV_DONTDUMP (Documentation/filesystems/proc.rst).
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut after = maps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
            let flags = after.find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            let Some(file) = memory.iter().next().unwrap().file_offset() else { continue };
            for bytes in [0, 8 << 20] {
                let error = file.file().set_len(bytes).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            }
        }
    }

    #[test]
    fn memory_goes_on_above_the_hole() {
        for (bytes, expected) in [
            (1 << 30, vec![(0, 1 << 30)]),
            (HOLE_START, vec![(0, HOLE_START)]),
            (4 << 30, vec![(0, HOLE_START), (HOLE_END, 1 << 30)]),
        ] {
            assert_eq!(ranges(bytes), expected);
            let ram: u64 = map_entries(bytes).iter().filter(|entry| entry.2 == Kind::Ram).map(|entry| entry.1).sum();
            assert!(ram <= bytes && ram >= bytes - HIGH_START);
        }
    }

    #[test]
    fn large_pages_of_the_host_are_those_of_the_guest() {
        for bytes in [64 << 20, 3 << 30, 5 << 30] {
            let memory = map(bytes, false).unwrap();
            for region in memory.iter() {
                let host = region.get_host_address(MemoryRegionAddress(0)).unwrap().addr();
                assert!(host.is_multiple_of(LARGE_PAGE), "{bytes:#x} bytes are mapped at {host:#x}");
            }
        }
    }

    #[test]
    fn an_initramfs_has_room_or_is_refused() {
        assert_eq!(place_high(64 << 20, 1 << 20, u64::MAX, 32 << 20).unwrap(), 63 << 20);
        assert_eq!(place_high(4 << 30, 4097, 0x7fff_ffff, 0).unwrap(), 0x7fff_e000);
        assert!(place_high(64 << 20, 48 << 20, u64::MAX, 32 << 20).is_err());
        assert!(place_high(64 << 20, u64::MAX, u64::MAX, 0).is_err());
    }
}
