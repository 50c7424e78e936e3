//! Drivers that do whatever comes to mind: any register at any time, rings and descriptors of random content. No device may
//! panic, hang, or touch memory that is not the guest's; and geometry stays as it was when the driver said DRIVER_OK.

use super::balloon::Balloon;
use super::block::Block;
use super::console::Console;
use super::device::Device;
use super::entropy::Entropy;
use super::memory::{self, Memory};
use super::mmio::Transport;
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const BYTES: u64 = 1 << 20;
/// What a random driver writes to: all registers that mean something, and some that do not.
const REGISTERS: [u64; 22] = [
    0x00, 0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xfc,
    0x100, 0x13f, 0xffc,
];

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u32),
    Odd(u64, Vec<u8>),
    Read(u64, usize),
    Notify(usize),
    Host,
    Memory(u64, Vec<u8>),
    /// A well-formed set-up, after which the random acts hit a live device.
    Live(Vec<u32>),
}

fn act() -> impl Strategy<Value = Act> {
    let register = prop::sample::select(REGISTERS.to_vec());
    let value = prop_oneof![any::<u32>(), 0_u32..16, Just(0x1000), Just(0xf_f000), Just(u32::MAX)];
    prop_oneof![
        4 => (register.clone(), value).prop_map(|(at, value)| Act::Write(at, value)),
        1 => (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, data)| Act::Odd(at, data)),
        1 => (any::<u64>(), 0_usize..9).prop_map(|(at, length)| Act::Read(at, length)),
        4 => (0_usize..5).prop_map(Act::Notify),
        1 => Just(Act::Host),
        4 => (0_u64..0x4000, prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(at, data)| Act::Memory(at, data)),
        2 => prop::collection::vec(0_u32..0x4000, 12).prop_map(Act::Live),
    ]
}

fn write(transport: &mut Transport, at: u64, value: u32) {
    transport.write(at, &value.to_le_bytes());
}

fn read(transport: &mut Transport, at: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(at, &mut data);
    u32::from_le_bytes(data)
}

/// As a driver does it, with rings at the given places.
fn set_up(transport: &mut Transport, places: &[u32]) {
    for status in [0, 1, 3] {
        write(transport, 0x70, status);
    }
    for (page, features) in [(0, 0), (1, 1)] {
        write(transport, 0x24, page);
        write(transport, 0x20, features);
    }
    write(transport, 0x70, 11);
    for queue in 0..4_u32 {
        write(transport, 0x30, queue);
        write(transport, 0x38, 8);
        let place = |index: usize, align: u32| places[(queue as usize * 3 + index) % places.len()] & !(align - 1);
        for (register, value) in [(0x80, place(0, 16)), (0x90, place(1, 2)), (0xa0, place(2, 4))] {
            write(transport, register, value);
            write(transport, register + 4, 0);
        }
        write(transport, 0x44, 1);
    }
    write(transport, 0x70, 15);
}

fn transport(device: Box<dyn Device>) -> (Transport, Arc<Memory>) {
    let memory = Arc::new(memory::map(BYTES, false).unwrap());
    let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    (Transport::new(device, Arc::clone(&memory), interrupt).unwrap(), memory)
}

fn devices() -> Vec<Box<dyn Device>> {
    let disk = |read_only| {
        let mut file = File::from(rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all(&[7; 4096]).unwrap();
        Box::new(Block::new(file, read_only, "root0").unwrap())
    };
    let (stream, other) = UnixStream::pair().unwrap();
    (&other).write_all(b"hello").unwrap();
    other.set_nonblocking(true).unwrap();
    vec![Box::new(Console::new(stream).unwrap()), Box::new(Entropy), Box::new(Balloon), disk(true), disk(false)]
}

fn play(transport: &mut Transport, memory: &Memory, acts: &[Act]) {
    for act in acts {
        match act {
            Act::Write(at, value) => write(transport, *at, *value),
            Act::Odd(at, data) => transport.write(*at, data),
            Act::Read(at, length) => transport.read(*at, &mut vec![0; *length]),
            Act::Notify(queue) => transport.notified(*queue),
            Act::Host => transport.host_ready(),
            Act::Memory(at, data) => memory.write_slice(data, GuestAddress(*at)).unwrap(),
            Act::Live(places) => set_up(transport, places),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_driver_is_survived(acts in prop::collection::vec(act(), 0..60)) {
        for device in devices() {
            let (mut transport, memory) = transport(device);
            play(&mut transport, &memory, &acts);
        }
    }

    #[test]
    fn geometry_is_frozen_while_the_driver_runs(places in prop::collection::vec(0_u32..0x4000, 12), writes in prop::collection::vec((prop::sample::select(vec![0x38_u64, 0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4]), any::<u32>()), 0..40)) {
        let (mut transport, _) = transport(Box::new(Entropy));
        set_up(&mut transport, &places);
        prop_assume!(read(&mut transport, 0x70) == 15);
        write(&mut transport, 0x30, 0);
        let before = transport.geometry(0);
        for (at, value) in writes {
            write(&mut transport, at, value);
        }
        prop_assert_eq!(before, transport.geometry(0));
    }
}

/// A descriptor: address, length, flags (1 next, 2 write, 4 indirect), next.
fn descriptor(memory: &Memory, index: u64, address: u64, length: u32, flags: u16, next: u16) {
    let at = 0x1000 + index * 16;
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(length, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}

/// Descriptors at 0x1000, available ring at 0x2000, used ring at 0x3000, chain 0 available.
fn offer(transport: &mut Transport, memory: &Memory) {
    set_up(transport, &[0x1000, 0x2000, 0x3000]);
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

#[test]
fn a_chain_that_breaks_the_rules_stops_the_device() {
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
        assert_eq!(read(&mut transport, 0x70) & 64, 64);
        // Only a reset helps.
        transport.notified(0);
        write(&mut transport, 0x70, 0);
        assert_eq!(read(&mut transport, 0x70), 0);
    }
}
