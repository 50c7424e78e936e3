//! Requests of a driver, one rule kept or broken at a time: what devices do with each, and that what others once got wrong is
//! refused here. For guests that do anything at all see [`super::hostile`].

use super::block::Block;
use super::console::Console;
use super::device::{ActivatedQueues, CHAINS_MAX, Device};
use super::driver::{BYTES, STATUS, descriptor, go, needs_reset, negotiate, place, read, transport, write};
use super::entropy::Entropy;
use super::memory::{self, Memory};
use super::mmio::Transport;
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

/// The places of all rings.
const RINGS: [u64; 3] = [0x1000, 0x2000, 0x3000];

/// Up to DRIVER_OK; the queues share their rings.
fn set_up(transport: &mut Transport) {
    negotiate(transport, 0);
    (0..4).for_each(|queue| place(transport, queue, 8, RINGS));
    go(transport);
}

/// Sets up, with chain 0 available.
fn offer(transport: &mut Transport, memory: &Memory) {
    set_up(transport);
    memory.write_obj(1_u16, GuestAddress(0x2002)).unwrap();
    transport.notified(0);
}

fn disk(read_only: bool) -> (Transport, Arc<Memory>, File) {
    let mut file = File::from(rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&[7; 4096]).unwrap();
    let copy = file.try_clone().unwrap();
    let (transport, memory) = transport(Box::new(Block::new(file, read_only, "root0").unwrap()));
    (transport, memory, copy)
}

/// A request of this type for this sector, with one buffer.
fn request(memory: &Memory, kind: u32, sector: u64, length: u32, writable: bool) {
    memory.write_obj(kind, GuestAddress(0x8000)).unwrap();
    memory.write_obj(sector, GuestAddress(0x8008)).unwrap();
    memory.write_obj(0xff_u8, GuestAddress(0x8100)).unwrap();
    descriptor(memory, 0, 0x8000, 16, 1, 1);
    descriptor(memory, 1, 0x9000, length, if writable { 3 } else { 1 }, 2);
    descriptor(memory, 2, 0x8100, 1, 2, 0);
}

#[test]
fn a_disk_reads_within_its_bounds_only() {
    for (sector, length, status) in
        [(0, 4096, 0), (7, 512, 0), (8, 512, 1), (0, 8192, 1), (u64::MAX, 512, 1), (0, 513, 1), (0, 0xf000_0000, 1)]
    {
        let (mut transport, memory, _) = disk(true);
        request(&memory, 0, sector, length, true);
        offer(&mut transport, &memory);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x8100)).unwrap(), status, "{sector} {length}");
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap(), 1);
    }
}

#[test]
fn a_read_only_disk_refuses_writes() {
    for (read_only, status) in [(true, 1), (false, 0)] {
        let (mut transport, memory, file) = disk(read_only);
        request(&memory, 1, 0, 512, false);
        offer(&mut transport, &memory);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x8100)).unwrap(), status);
        let mut content = [1];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut content, 0).unwrap();
        assert_eq!(content, [if read_only { 7 } else { 0 }]);
    }
}

// firecracker CVE-2019-18960 (vsock): a chain whose buffers lie outside of memory, or come back to themselves.
#[test]
fn cve_2019_18960_a_chain_that_breaks_the_rules_stops_the_device() {
    type Spoil = fn(&Memory);
    let spoils: [Spoil; 6] = [
        |memory| descriptor(memory, 0, 0x8000, 16, 1, 0),       // a loop
        |memory| descriptor(memory, 0, 0x8000, 16, 0, 0),       // nothing after the header
        |memory| descriptor(memory, 0, 0x8000, 8, 1, 1),        // a short header
        |memory| descriptor(memory, 0, u64::MAX - 4, 16, 1, 1), // an address that wraps
        |memory| descriptor(memory, 0, 0x1000, 48, 4 | 1, 1),   // indirect in itself
        |memory| descriptor(memory, 2, 0x8100, 1, 0, 0),        // a status that may not be written
    ];
    for spoil in spoils {
        let (mut transport, memory, _) = disk(true);
        request(&memory, 0, 0, 512, true);
        spoil(&memory);
        offer(&mut transport, &memory);
        assert!(needs_reset(&mut transport));
        // Only a reset helps.
        transport.notified(0);
        write(&mut transport, STATUS, 0);
        assert_eq!(read(&mut transport, STATUS), 0);
    }
}

// firecracker CVE-2026-5747: queue registers that are written while the device runs moved its rings out of memory. Every register
// of the geometry, with every kind of value, at every status from FEATURES_OK on.
#[test]
fn cve_2026_5747_rings_do_not_move_once_the_driver_runs() {
    const QUEUE_READY: u64 = 0x44;
    let registers = [0x38, QUEUE_READY, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4];
    let values = [0, 1, 2, 4, 16, 0x1000, 0x8000, 0xf_fff0, 0xffff_fff0, u32::MAX];
    let statuses: [&[u32]; 4] = [&[], &[15], &[15, 128], &[11, 15, 15]];
    for more in statuses {
        let (mut transport, memory) = transport(Box::new(Entropy));
        set_up(&mut transport);
        more.iter().for_each(|status| write(&mut transport, STATUS, *status));
        let geometry = |transport: &Transport| {
            let (queues, _) = transport.inspect();
            let queue = &queues[0];
            (queue.size(), queue.ready(), queue.desc_table(), queue.avail_ring(), queue.used_ring())
        };
        write(&mut transport, 0x30, 0);
        let before = geometry(&transport);
        assert_eq!(before, (8, true, 0x1000, 0x2000, 0x3000));
        for register in registers {
            for value in values {
                write(&mut transport, register, value);
                assert_eq!(geometry(&transport), before, "{register:#x} = {value:#x}");
            }
        }
        transport.notified(0);
        let mut rest = vec![0; BYTES as usize];
        memory.read_slice(&mut rest, GuestAddress(0)).unwrap();
        assert!(rest.iter().all(|byte| *byte == 0), "nothing was on offer, so nothing is written");
    }
}

// A geometry is what the registers were told between FEATURES_OK and DRIVER_OK, and the device runs only if all of it lies in
// memory.
proptest! {
    #[test]
    fn rings_lie_in_memory_or_the_device_does_not_run(
        addresses in prop::array::uniform3(prop_oneof![any::<u64>(), 0..BYTES * 2, BYTES - 0x200..BYTES + 0x10]),
        size in prop_oneof![any::<u32>(), 0_u32..40],
    ) {
        let (mut transport, _) = transport(Box::new(Entropy));
        negotiate(&mut transport, 0);
        place(&mut transport, 0, size, addresses);
        go(&mut transport);
        let (queues, running) = transport.inspect();
        let queue = &queues[0];
        let size = u64::from(queue.size());
        prop_assert!(size.is_power_of_two() && size <= 16);
        let rings = [(queue.desc_table(), size * 16), (queue.avail_ring(), 6 + size * 2), (queue.used_ring(), 6 + size * 8)];
        let inside = |(start, length): (u64, u64)| start.checked_add(length).is_some_and(|end| end <= BYTES);
        prop_assert_eq!(running, rings.into_iter().all(inside), "{:x?}", rings);
    }
}

// The same for devices that only fill what they are given: a chain that never ends is not filled at all.
#[test]
fn cve_2019_18960_no_device_follows_a_loop() {
    for (flags, next, indirect) in [(3, 0, false), (3, 100, false), (4, 0, true)] {
        let (mut transport, memory) = transport(Box::new(Entropy));
        descriptor(&memory, 0, if indirect { 0x1000 } else { 0x9000 }, 16, flags, next);
        offer(&mut transport, &memory);
        assert!(needs_reset(&mut transport), "flags {flags}, next {next}");
        assert_eq!(memory.read_obj::<u128>(GuestAddress(0x9000)).unwrap(), 0);
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap(), 0, "it was given back");
    }
}

// cloud-hypervisor GHSA-jmr4-g2hv-mjj6: a guest that writes a qcow2 header to its disk finds it there as bytes, and nothing else.
#[test]
fn ghsa_jmr4_g2hv_mjj6_a_disk_is_its_bytes() {
    let (mut transport, memory, file) = disk(false);
    request(&memory, 1, 0, 512, false);
    let header =
        [b"QFI\xfb\0\0\0\x02".as_slice(), &512_u64.to_be_bytes(), &11_u32.to_be_bytes(), b"/etc/passwd"].concat();
    memory.write_slice(&header, GuestAddress(0x9000)).unwrap();
    offer(&mut transport, &memory);
    let again = Block::new(file, true, "root0").unwrap();
    let mut capacity = [0; 8];
    again.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 8, "sectors of the file, not of what its content claims");
    let (mut transport, memory) = self::transport(Box::new(again));
    request(&memory, 0, 0, 512, true);
    offer(&mut transport, &memory);
    let mut content = vec![0; header.len()];
    memory.read_slice(&mut content, GuestAddress(0x9000)).unwrap();
    assert_eq!(content, header);
}

fn console() -> (Transport, Arc<Memory>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (transport, memory) = transport(Box::new(Console::new(ours).unwrap()));
    (transport, memory, theirs)
}

/// Puts chain 0 on offer `count` more times in a ring of eight, its index being `index` so far.
fn offer_again(memory: &Memory, index: &mut u16, count: u16) {
    *index = index.wrapping_add(count);
    memory.write_obj(*index, GuestAddress(0x2002)).unwrap();
}

// A guest that floods its channel while nobody reads: the socket fills, one buffer waits in the hypervisor, and the rest stays in
// the guest's own memory.
#[test]
fn a_flood_stays_in_the_guests_memory() {
    let (mut transport, memory, mut supervisor) = console();
    // Queue 1 is the transmit queue; the four share their rings, and only it is rung.
    set_up(&mut transport);
    descriptor(&memory, 0, 0x1_0000, 32 << 10, 0, 0);
    let mut index = 0;
    let used = || memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap();
    let stopped = (0..1000).find(|_| {
        offer_again(&memory, &mut index, 1);
        transport.notified(1);
        used() != index
    });
    let taken = used();
    assert!(stopped.is_some() && taken < 64, "{taken} buffers of 32 KiB were taken and nobody read");
    // It goes on where it stopped when somebody reads.
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = supervisor.read(&mut buffer) {
        read += count;
        transport.host_ready();
    }
    assert_eq!((used(), read), (index, usize::from(index) * (32 << 10)));
}

// cloud-hypervisor CVE-2026-45782: I/O that ends after its device was reset wrote to memory that was no longer the device's.
#[test]
fn cve_2026_45782_nothing_is_written_after_a_reset() {
    let (mut transport, memory, mut supervisor) = console();
    set_up(&mut transport);
    // Output that waits in the hypervisor, and input that waits for a buffer.
    descriptor(&memory, 0, 0x1_0000, 32 << 10, 0, 0);
    let mut index = 0;
    for _ in 0..64 {
        offer_again(&memory, &mut index, 1);
        transport.notified(1);
    }
    supervisor.write_all(b"input").unwrap();
    write(&mut transport, STATUS, 0);
    let content = |memory: &Memory| {
        let mut content = vec![0; BYTES as usize];
        memory.read_slice(&mut content, GuestAddress(0)).unwrap();
        content
    };
    let before = content(&memory);
    while supervisor.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    transport.host_ready();
    (0..4).for_each(|queue| transport.notified(queue));
    assert!(before == content(&memory), "a device in reset wrote to memory");
}

// A driver on another CPU can add to a ring as fast as it is served. A turn ends all the same, and says where more may wait.
#[test]
fn a_turn_ends_whatever_is_on_offer() {
    let memory = memory::map(BYTES, false).unwrap();
    let mut queue = Queue::new(8).unwrap();
    queue.try_set_desc_table_address(GuestAddress(0x1000)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(0x2000)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(0x3000)).unwrap();
    queue.set_ready(true);
    descriptor(&memory, 0, 0x9000, 16, 2, 0);
    let mut interrupt = false;
    let mut active = ActivatedQueues {
        memory: &memory,
        queues: &mut [queue],
        interrupt: &mut interrupt,
        left: CHAINS_MAX,
        unserved: 0,
    };
    let mut index = 0;
    let mut served = 0;
    loop {
        offer_again(&memory, &mut index, 1);
        let Some(chain) = active.next(0).unwrap() else { break };
        active.give_back(0, chain.head_index(), 16).unwrap();
        served += 1;
        assert!(served <= CHAINS_MAX, "a turn without an end");
    }
    assert_eq!((served, active.unserved), (CHAINS_MAX, 1));
}

/// The device rings its own bell for what it left.
#[test]
fn what_a_turn_left_is_served_in_the_next() {
    struct Glutton;
    impl Device for Glutton {
        fn kind(&self) -> u32 {
            4
        }
        fn features(&self) -> u64 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &[16]
        }
        fn read_config(&self, _offset: usize, _data: &mut [u8]) {}
        fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> anyhow::Result<()> {
            active.left = 1;
            while let Some(chain) = active.next(queue)? {
                active.give_back(queue, chain.head_index(), 0)?;
            }
            Ok(())
        }
    }
    let (mut transport, memory) = transport(Box::new(Glutton));
    set_up(&mut transport);
    descriptor(&memory, 0, 0x9000, 16, 2, 0);
    let mut index = 0;
    offer_again(&memory, &mut index, 3);
    transport.notified(0);
    while transport.queue_eventfds()[0].read().is_ok() {
        transport.notified(0);
    }
    assert_eq!(memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap(), 3);
}
