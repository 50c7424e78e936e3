//! What must hold, told by an own reading of the rings: it shares no code with the devices and follows the specification's words.

use super::super::device::CHAINS_MAX;
use super::super::memory::Memory;
use super::super::mmio::Transport;
use super::BYTES;
use std::ops::Range;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

/// Memory is compared by so many bytes.
const LINE: usize = 256;

/// Where a queue is. The places of a queue that is ready do not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    size: u16,
    ready: bool,
    /// Descriptors, available, used.
    pub(super) rings: [u64; 3],
}

/// The geometry of each queue.
pub(super) fn geometry(transport: &Transport) -> Vec<Geometry> {
    let one = |queue: &virtio_queue::Queue| Geometry {
        size: queue.size(),
        ready: queue.ready(),
        rings: [queue.desc_table(), queue.avail_ring(), queue.used_ring()],
    };
    transport.inspect().0.iter().map(one).collect()
}

/// Unless the device is in reset (`status` 0), what was ready is as it was.
pub(super) fn assert_frozen(before: &[Geometry], after: &[Geometry], status: u32) {
    for (before, after) in before.iter().zip(after).filter(|(before, _)| before.ready && status != 0) {
        assert_eq!(before, after, "a queue moved");
    }
}

/// What a turn of a device may do, read before it.
pub(super) struct Promise {
    running: bool,
    queues: Vec<Offered>,
    content: Vec<u8>,
    /// What may be written lies over rings or tables, so that the device's own writes change what is on offer.
    tangled: bool,
}

/// What a queue offers.
#[derive(Default)]
struct Offered {
    size: u16,
    used: Range<u64>,
    next_used: u16,
    chains: Vec<Chain>,
}

#[derive(Default)]
struct Chain {
    head: u16,
    writable: Vec<Range<u64>>,
    /// Tables of descriptors that it was read from.
    tables: Vec<Range<u64>>,
}

impl Promise {
    pub(super) fn new(transport: &Transport, memory: &Memory) -> Self {
        let (queues, running) = transport.inspect();
        let content = content(memory);
        let mut fixed = Vec::new();
        let mut written = Vec::new();
        let mut offers = Vec::new();
        for queue in queues {
            if !queue.ready() || !running {
                offers.push(Offered { next_used: queue.next_used(), ..Offered::default() });
                continue;
            }
            let (table, available, used) = (queue.desc_table(), queue.avail_ring(), queue.used_ring());
            let size = u64::from(queue.size());
            let used = used..used + 6 + size * 8;
            fixed.extend([table..table + size * 16, available..available + 6 + size * 2]);
            written.push(used.clone());
            let chains = chains(&content, queue.size(), queue.next_avail(), (table, available));
            for chain in &chains {
                fixed.extend(chain.tables.iter().cloned());
                written.extend(chain.writable.iter().cloned());
            }
            offers.push(Offered { size: queue.size(), used, next_used: queue.next_used(), chains });
        }
        // Buffers over each other are the driver's own affair; over a used ring they would spoil what is read back below.
        let rings: Vec<&Range<u64>> = offers.iter().map(|offered| &offered.used).collect();
        let over_rings = rings.iter().any(|ring| written.iter().filter(|range| meet(range, ring)).count() > 1);
        let tangled = over_rings || written.iter().any(|range| fixed.iter().any(|other| meet(range, other)));
        Self { running, queues: offers, content, tangled }
    }

    /// Compares with what the device did.
    pub(super) fn check(self, transport: &Transport, memory: &Memory) {
        let (queues, _) = transport.inspect();
        let after = content(memory);
        let mut may = Vec::new();
        for (offered, queue) in self.queues.iter().zip(queues) {
            let count = queue.next_used().wrapping_sub(offered.next_used);
            assert!(count <= CHAINS_MAX, "{count} chains in one turn");
            if !self.tangled {
                offered.assert_given_back(&after, count);
            }
            may.push(&offered.used);
            may.extend(offered.chains.iter().flat_map(|chain| &chain.writable));
        }
        for (at, (before, after)) in (0..).zip(self.content.chunks(LINE).zip(after.chunks(LINE))) {
            // Most of memory is as it was; a fuzz target would spend its time on comparing it byte by byte.
            if before == after {
                continue;
            }
            assert!(self.running, "a device that is not running wrote to {:#x}", at * LINE);
            for at in (0..LINE).filter(|byte| before[*byte] != after[*byte]).map(|byte| (at * LINE + byte) as u64) {
                let allowed = self.tangled || may.iter().any(|range| range.contains(&at));
                assert!(allowed, "{at:#x} was written to, and is no device's to write");
            }
        }
    }
}

impl Offered {
    /// The elements of the used ring that are new.
    fn assert_given_back(&self, content: &[u8], count: u16) {
        assert!(usize::from(count) <= self.chains.len(), "{count} of {} chains were given back", self.chains.len());
        for (step, chain) in (0..count).zip(&self.chains) {
            let slot = u64::from(self.next_used.wrapping_add(step) % self.size);
            let [id, length] = [0, 4].map(|part| number(content, self.used.start + 4 + slot * 8 + part, 4));
            // A later element may have taken the slot.
            if usize::from(step) + usize::from(self.size) < usize::from(count) {
                continue;
            }
            assert_eq!(id, Some(u64::from(chain.head)), "another chain was given back");
            let room: u64 = chain.writable.iter().map(|range| range.end.saturating_sub(range.start)).sum();
            assert!(length.is_some_and(|length| length <= room), "{length:?} bytes in a chain with room for {room}");
        }
    }
}

fn content(memory: &Memory) -> Vec<u8> {
    let mut content = vec![0; BYTES as usize];
    memory.read_slice(&mut content, GuestAddress(0)).expect("all of memory");
    content
}

fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// A little-endian number of some bytes, if they are there.
fn number(content: &[u8], at: u64, bytes: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let part = content.get(at..at.checked_add(bytes)?)?;
    Some(part.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// The chains between `next` and the index of the available ring; none if that index is further than the ring is long.
fn chains(content: &[u8], size: u16, next: u16, (table, available): (u64, u64)) -> Vec<Chain> {
    let index = number(content, available + 2, 2).unwrap_or_default() as u16;
    let count = index.wrapping_sub(next);
    let head = |step: u16| number(content, available + 4 + u64::from(next.wrapping_add(step) % size) * 2, 2);
    let heads = (0..count).filter(|_| count <= size).filter_map(head);
    heads.map(|head| chain(content, head as u16, table, size)).collect()
}

/// Follows a chain until it ends or goes where nothing is. One that comes back to itself is read as often as it could be long.
fn chain(content: &[u8], head: u16, mut table: u64, size: u16) -> Chain {
    let mut chain = Chain { head, ..Chain::default() };
    let (mut index, mut size, mut left) = (u64::from(head), u64::from(size), u64::from(size));
    let mut indirect = false;
    while index < size && left > 0 {
        let field = |offset, bytes| number(content, table + index * 16 + offset, bytes);
        let (Some(address), Some(length), Some(flags), Some(next)) =
            (field(0, 8), field(8, 4), field(12, 2), field(14, 2))
        else {
            break;
        };
        if flags & 4 != 0 {
            if indirect {
                break;
            }
            chain.tables.push(address..address.saturating_add(length));
            (table, size, left, index, indirect) = (address, length / 16, length / 16, 0, true);
            if table > BYTES {
                break;
            }
            continue;
        }
        if flags & 2 != 0 {
            chain.writable.push(address..address.saturating_add(length));
        }
        if flags & 1 == 0 {
            break;
        }
        (index, left) = (next, left - 1);
    }
    chain
}
