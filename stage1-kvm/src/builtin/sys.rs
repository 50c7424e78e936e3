//! The calls of the built-in hypervisor whose safety no crate can promise.
#![allow(unsafe_code)]

use kvm_bindings::{kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

/// Gives the guest its memory.
pub(super) fn set_memory(vm: &VmFd, memory: &GuestMemoryMmap<()>) -> anyhow::Result<()> {
    for (slot, region) in (0_u32..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.get_host_address(MemoryRegionAddress(0))? as u64,
        };
        // SAFETY: the range is one mapping of `memory`, which the machine keeps until its process ends; Rust code reaches it
        // through volatile accesses only, so that the guest may write to it at any time.
        unsafe { vm.set_user_memory_region(region)? };
    }
    Ok(())
}

/// Takes over an fd that the supervisor put at this number.
pub(super) fn take_fd(number: i32) -> anyhow::Result<OwnedFd> {
    anyhow::ensure!(number > 2, "fd {number} is not one that was passed");
    // SAFETY: `fcntl(F_GETFD)` only asks, and any number may be asked for.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    anyhow::ensure!(flags >= 0, "fd {number} was not passed");
    // SAFETY: the fd is open, and each number of the specification is taken once, before anything else is opened here.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// KVM by its open device.
pub(super) fn open_kvm(number: i32) -> anyhow::Result<Kvm> {
    let device = take_fd(number)?;
    // SAFETY: the fd is owned and given away; if it is not KVM's, its ioctls answer with an error.
    Ok(unsafe { Kvm::from_raw_fd(device.into_raw_fd()) })
}

/// An event fd as one that can be polled.
pub(super) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event owns its fd and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// What KVM says of its internal error: its kind, and the sixteen words that explain it.
pub(super) fn internal_error(run: &kvm_run) -> (u32, [u64; 16]) {
    // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel filled this member of the union; all its bytes
    // are valid as integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    (internal.suberror, internal.data)
}

/// Takes a capability from all that this process may ever execute.
pub(super) fn drop_bounding_capability(capability: u32) -> std::io::Result<()> {
    // SAFETY: the call takes integers only.
    match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Asks for large pages; whether there are any is the host's business (`/sys/kernel/mm/transparent_hugepage/enabled`).
pub(super) fn prefer_large_pages(memory: &GuestMemoryMmap<()>) {
    advise(memory, libc::MADV_HUGEPAGE);
}

/// A core file must not hold what the guest keeps secret.
pub(super) fn leave_out_of_core_files(memory: &GuestMemoryMmap<()>) {
    advise(memory, libc::MADV_DONTDUMP);
}

fn advise(memory: &GuestMemoryMmap<()>, advice: libc::c_int) {
    for slice in memory.iter().filter_map(|region| region.as_volatile_slice().ok()) {
        // SAFETY: the range is one mapping of `memory`; neither advice changes its content or who may reach it.
        unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), advice) };
    }
}

/// Takes the pages of a piece of guest memory back; they read as zeros from now on.
pub(super) fn release(slice: &VolatileSlice<'_>) -> std::io::Result<()> {
    // MADV_REMOVE frees the pages of a shared memory file too; private memory has no file and says EINVAL.
    for advice in [libc::MADV_REMOVE, libc::MADV_DONTNEED] {
        let start = slice.ptr_guard_mut().as_ptr();
        // SAFETY: the slice is a part of the mapping of guest memory, in whole pages, which no Rust reference points into; its
        // content may change at any time, because the guest writes to it.
        match unsafe { libc::madvise(start.cast(), slice.len(), advice) } {
            0 => return Ok(()),
            _ if advice == libc::MADV_REMOVE => {}
            _ => return Err(std::io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// Says what the reader of a tap device's queue does itself: TUN_F_… of linux/if_tun.h.
pub(super) fn set_tap_offload(queue: BorrowedFd<'_>, flags: u32) -> std::io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself and touches no memory.
    match unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Asks for a page to write code to, which a confined thread must not get.
#[cfg(test)]
pub(super) fn map_executable() {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // SAFETY: a new mapping at a place of the kernel's choice, used by nobody.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
}
