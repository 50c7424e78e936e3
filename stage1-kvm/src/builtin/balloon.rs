//! virtio-balloon (virtio 1.2, 5.5) for free page reporting alone: the guest names pages that it does not use, and the host takes
//! their memory back. The balloon itself stays empty; nobody squeezes a guest here.

use super::device::{ActivatedQueues, Device, read_space, refuse};
use super::memory::Memory;
use super::sys;
use anyhow::Result;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// `linux/virtio_balloon.h`
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;
const REPORTING_QUEUE: usize = 2;
/// Memory comes back in whole pages.
const PAGE_BYTES: u64 = 4096;

/// The device.
#[derive(Debug)]
pub(super) struct Balloon;

/// Gives the memory of one report back. It is the guest's own memory that it loses, so a lie hurts the liar alone.
fn release(memory: &Memory, address: GuestAddress, length: u32) -> Result<()> {
    if !address.0.is_multiple_of(PAGE_BYTES) || !u64::from(length).is_multiple_of(PAGE_BYTES) {
        return refuse();
    }
    for slice in memory.get_slices(address, length as usize) {
        sys::release(&slice?)?;
    }
    Ok(())
}

impl Device for Balloon {
    fn kind(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BALLOON_F_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 16, 32]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&[0; 8], offset, data);
    }

    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()> {
        while let Some(chain) = active.next(queue)? {
            let head = chain.head_index();
            if queue == REPORTING_QUEUE {
                for part in chain.writable() {
                    release(active.memory, part.addr(), part.len())?;
                }
            }
            active.give_back(queue, head, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::memory;
    use vm_memory::Bytes;

    #[test]
    fn reported_pages_are_zero_again_whatever_backs_them() {
        for shared in [false, true] {
            let memory = memory::map(1 << 20, shared).unwrap();
            memory.write_slice(&[7; 3 << 12], GuestAddress(0x1000)).unwrap();
            release(&memory, GuestAddress(0x2000), 0x1000).unwrap();
            let byte = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
            assert_eq!([byte(0x1fff), byte(0x2000), byte(0x2fff), byte(0x3000)], [7, 0, 0, 7], "shared {shared}");
        }
    }

    #[test]
    fn what_is_not_the_guests_is_refused() {
        let memory = memory::map(1 << 20, false).unwrap();
        for (address, length) in
            [(0x1001, 0x1000), (0x1000, 0x1001), (1 << 20, 0x1000), (0xf_f000, 0x2000), (u64::MAX - 4095, 0x1000)]
        {
            assert!(release(&memory, GuestAddress(address), length).is_err(), "{address:#x} {length:#x}");
        }
    }
}
