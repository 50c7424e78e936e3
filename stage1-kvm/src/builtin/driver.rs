//! What the tests of devices do as a guest's driver does it.

use super::device::Device;
use super::memory::{self, Memory};
use super::mmio::Transport;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// The guest's memory, in bytes.
pub(super) const BYTES: u64 = 1 << 20;
/// The status register, and what a device sets in it that gave up.
pub(super) const STATUS: u64 = 0x70;
pub(super) const NEEDS_RESET: u32 = 64;

/// A device on its bus, with memory.
pub(super) fn transport(device: Box<dyn Device>) -> (Transport, Arc<Memory>) {
    let memory = Arc::new(memory::map(BYTES, false).unwrap());
    let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    (Transport::new(device, Arc::clone(&memory), interrupt).unwrap(), memory)
}

pub(super) fn write(transport: &mut Transport, at: u64, value: u32) {
    transport.write(at, &value.to_le_bytes());
}

pub(super) fn read(transport: &mut Transport, at: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(at, &mut data);
    u32::from_le_bytes(data)
}

/// Up to FEATURES_OK, with the low `features` and VERSION_1.
pub(super) fn negotiate(transport: &mut Transport, features: u32) {
    for status in [0, 1, 3] {
        write(transport, STATUS, status);
    }
    for (page, features) in [(0, features), (1, 1)] {
        write(transport, 0x24, page);
        write(transport, 0x20, features);
    }
    write(transport, STATUS, 11);
}

/// A queue of `size` with descriptors, available and used ring at the given places, made ready.
pub(super) fn place(transport: &mut Transport, queue: u32, size: u32, places: [u64; 3]) {
    write(transport, 0x30, queue);
    write(transport, 0x38, size);
    for (register, place) in [0x80, 0x90, 0xa0].into_iter().zip(places) {
        write(transport, register, (place & 0xffff_ffff) as u32);
        write(transport, register + 4, (place >> 32) as u32);
    }
    write(transport, 0x44, 1);
}

/// DRIVER_OK.
pub(super) fn go(transport: &mut Transport) {
    write(transport, STATUS, 15);
}

/// Whether the device gave up.
pub(super) fn needs_reset(transport: &mut Transport) -> bool {
    read(transport, STATUS) & NEEDS_RESET != 0
}

/// A descriptor of the table at 0x1000: address, length, flags (1 next, 2 write, 4 indirect), next.
pub(super) fn descriptor(memory: &Memory, index: u64, address: u64, length: u32, flags: u16, next: u16) {
    let at = 0x1000 + index * 16;
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(length, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}
