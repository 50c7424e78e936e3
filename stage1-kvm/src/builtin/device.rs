//! What a virtio device is to its transport. Devices touch guest memory through queues only, and need no KVM: tests drive
//! them with nothing but memory.

use super::memory::Memory;
use anyhow::{Result, bail};
use std::os::fd::BorrowedFd;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

/// So many chains are served in one turn at most. A driver that always has more must not keep the device thread from the other
/// devices for ever, so the rest is served when it comes to this device again.
pub(super) const CHAINS_MAX: u16 = 256;

/// Guest memory and queues of a device that the driver has set up; the geometry does not change any more.
pub(super) struct ActivatedQueues<'a> {
    /// Guest memory.
    pub(super) memory: &'a Memory,
    /// In the device's order.
    pub(super) queues: &'a mut [Queue],
    /// The guest must be interrupted.
    pub(super) interrupt: &'a mut bool,
    /// Chains that may still be taken in this turn.
    pub(super) left: u16,
    /// Queues, by bit, that were not served to their end.
    pub(super) unserved: u32,
}

/// A device behind a [`super::mmio::Transport`]. An `Err` means that the driver broke the rules (or the host its promise): the
/// transport stops the device and tells the driver that it needs a reset.
pub(super) trait Device: Send {
    /// The virtio device number.
    fn kind(&self) -> u32;
    /// Feature bits of this kind of device.
    fn features(&self) -> u64;
    /// Largest size of each queue.
    fn queue_sizes(&self) -> &[u16];
    /// Reads the configuration space; what lies beyond it stays as it is (zero).
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// Writes the configuration space; most devices have nothing to write.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}
    /// The driver accepted these features and set DRIVER_OK.
    fn activate(&mut self, _features: u64, _active: &mut ActivatedQueues<'_>) -> Result<()> {
        Ok(())
    }
    /// The driver reset the device.
    fn reset(&mut self) {}
    /// The driver says that this queue has buffers.
    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()>;
    /// An fd of the host to watch for input and, when asked, for output.
    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// The fd is ready.
    fn host_ready(&mut self, _active: &mut ActivatedQueues<'_>) -> Result<()> {
        Ok(())
    }
}

impl<'a> ActivatedQueues<'a> {
    /// The next chain of a queue. A ring whose index jumped further than the ring is long is an error, and so is a chain that
    /// does not come to an end: one with a loop, with a link out of its table, with more than 4 GiB, or with an indirect table
    /// inside another. A driver may still change what was checked; what keeps devices within the guest's memory is that every
    /// access is checked again.
    pub(super) fn next(&mut self, queue: usize) -> Result<Option<DescriptorChain<&'a Memory>>> {
        if self.left == 0 {
            self.unserved |= 1 << queue;
            return Ok(None);
        }
        // Memory outlives the borrow of the queue, so a chain does too.
        let memory: &'a Memory = self.memory;
        let Some(chain) = self.queues[queue].iter(memory)?.next() else { return Ok(None) };
        self.left -= 1;
        match chain.clone().last() {
            Some(last) if !last.has_next() => Ok(Some(chain)),
            _ => refuse(),
        }
    }

    /// Whether the driver has set this queue up.
    pub(super) fn is_ready(&self, queue: usize) -> bool {
        self.queues[queue].ready()
    }

    /// Puts the last chain back.
    pub(super) fn put_back(&mut self, queue: usize) {
        self.queues[queue].go_to_previous_position();
    }

    /// Gives a chain back to the driver with `written` bytes in it.
    pub(super) fn give_back(&mut self, queue: usize, head: u16, written: u32) -> Result<()> {
        let queue = &mut self.queues[queue];
        queue.add_used(self.memory, head, written)?;
        *self.interrupt |= queue.needs_notification(self.memory)?;
        Ok(())
    }

    /// Gives several chains back so that the driver sees all of them or none: only the last moves the index that it looks at.
    pub(super) fn give_back_together(&mut self, queue: usize, chains: &[(u16, u32)]) -> Result<()> {
        let Some(((head, written), before)) = chains.split_last() else { return Ok(()) };
        let ring = &mut self.queues[queue];
        for (head, written) in before {
            // virtio 1.2, 2.7.8: flags and index, then elements of eight bytes.
            let place = 4 + 8 * u64::from(ring.next_used() % ring.size());
            let element = u64::from(*head) | u64::from(*written) << 32;
            self.memory.write_obj(element.to_le(), GuestAddress(ring.used_ring()).unchecked_add(place))?;
            ring.set_next_used(ring.next_used().wrapping_add(1));
        }
        self.give_back(queue, *head, *written)
    }
}

/// Copies what the configuration space `config` has at `offset` into `data`.
pub(super) fn read_space(config: &[u8], offset: usize, data: &mut [u8]) {
    let part = config.get(offset..).unwrap_or_default();
    let length = part.len().min(data.len());
    data[..length].copy_from_slice(&part[..length]);
}

/// The error of a device for a request that breaks the rules.
pub(super) fn refuse<T>() -> Result<T> {
    bail!("the driver broke the rules of this device")
}
