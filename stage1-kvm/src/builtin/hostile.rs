//! A guest that does whatever a script of bytes says: any register at any time, rings and descriptors of any content, and on the
//! host's side a supervisor and a virtiofsd of any mood. What must hold after every act:
//!
//! * the geometry of a queue that is ready does not change until the driver resets the device;
//! * a device changes no memory but used rings and what the descriptors of chains on offer let it write;
//! * it gives chains back in order, each once, with no more bytes than the chain has room for;
//! * a device that the driver does not run touches nothing, and one turn serves a bounded number of chains.
//!
//! Fuzz targets and property tests play scripts; the files below hold the script and the laws.

mod laws;
mod script;

use super::balloon::Balloon;
use super::block::Block;
use super::bus::Bus;
use super::console::Console;
use super::device::Device;
use super::entropy::Entropy;
use super::fs::Share;
use super::memory::{self, DEVICE_BYTES, DEVICES, Memory};
use super::mmio::Transport;
use super::net::Card;
use super::port::{Line, Ports};
use laws::{Promise, geometry};
use rustix::fs::MemfdFlags;
use script::Script;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// All of the guest's memory, so that comparing it is quick.
pub(super) const BYTES: u64 = 1 << 16;
/// A longer script is cut.
const ACTS_MAX: usize = 300;
/// Rings of a well-behaved set-up: of queue N from here on, [`RINGS_BYTES`] each.
const RINGS: u64 = 0x1000;
const RINGS_BYTES: u64 = 0x1000;
/// Queues that a script sets up; no device has more.
const QUEUES: u64 = 4;
/// Registers that mean something, and some that do not.
const REGISTERS: [u64; 22] = [
    0x00, 0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xfc,
    0x100, 0x13f, 0xffc,
];

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The channel's console.
    Console,
    /// Random bytes.
    Entropy,
    /// Free page reporting.
    Balloon,
    /// A disk that may be written.
    Disk,
    /// One that may not.
    ReadOnlyDisk,
    /// virtio-fs.
    Share,
    /// A network card.
    Card,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Console, Self::Entropy, Self::Balloon, Self::Disk, Self::ReadOnlyDisk, Self::Share, Self::Card];
}

/// Plays `bytes` on a machine with these devices.
pub(crate) fn drive(kinds: &[Kind], bytes: &[u8]) {
    let mut script = Script(bytes);
    let Some(mut guest) = Guest::new(kinds, &mut script) else { return };
    for _ in 0..ACTS_MAX {
        if script.0.is_empty() {
            return;
        }
        guest.act(&mut script);
    }
}

struct Guest {
    bus: Bus,
    memory: Arc<Memory>,
    /// The other ends of the devices' sockets.
    peers: Vec<UnixStream>,
}

impl Guest {
    /// None if a device could not be made, as with a virtiofsd that talks nonsense.
    fn new(kinds: &[Kind], script: &mut Script<'_>) -> Option<Self> {
        // virtiofsd maps the memory too.
        let memory = Arc::new(memory::map(BYTES, kinds.contains(&Kind::Share)).expect("memory"));
        let mut peers = Vec::new();
        let mut devices = Vec::new();
        for kind in kinds {
            let device = device(*kind, script, &mut peers)?;
            let interrupt = EventFd::new(libc::EFD_NONBLOCK).expect("an event fd");
            devices.push(Mutex::new(Transport::new(device, Arc::clone(&memory), interrupt).expect("a transport")));
        }
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        let line = Line(EventFd::new(libc::EFD_NONBLOCK).expect("an event fd"));
        Some(Self { bus: Bus { ports: Ports::new(Some((null, line))), devices }, memory, peers })
    }

    fn act(&mut self, script: &mut Script<'_>) {
        let count = self.bus.devices.len();
        let device = if count > 1 { usize::from(script.u8()) % count } else { 0 };
        match script.u8() % 12 {
            0 => self.write(device, script.pick(&REGISTERS), script.value()),
            1 => self.poke(address(device, u64::from(script.u16())), script.bytes(9)),
            2 => self.bus.read(address(device, u64::from(script.u16())), &mut [0; 9][..usize::from(script.u8() % 9)]),
            3 => self.notified(device, usize::from(script.u8() % 5)),
            4 => self.host_ready(device),
            5 => {
                let at = GuestAddress(u64::from(script.u16()));
                let _ = self.memory.write(script.bytes(64), at); // Past the end of memory there is nothing to write to.
            }
            6 => self.set_up(device, |queue, ring| RINGS + queue * RINGS_BYTES + ring * 0x400),
            7 => {
                let places: [u16; 12] = std::array::from_fn(|_| script.u16());
                self.set_up(device, |queue, ring| u64::from(places[(queue * 3 + ring) as usize]));
            }
            8 => self.offer(device, script),
            9 => self.ask_disk(device, script),
            10 => self.supervisor(script),
            _ => self.strange_place(script),
        }
        self.drain();
    }

    /// A CPU writes, and no queue moves.
    fn poke(&self, address: u64, data: &[u8]) {
        let before = self.geometries();
        self.bus.write(address, data);
        for ((device, before), after) in before.iter().enumerate().zip(self.geometries()) {
            laws::assert_frozen(before, &after, self.read(device, 0x70));
        }
    }

    fn geometries(&self) -> Vec<Vec<laws::Geometry>> {
        self.bus.devices.iter().map(|device| geometry(&device.lock().expect("one thread"))).collect()
    }

    fn write(&self, device: usize, register: u64, value: u32) {
        self.poke(address(device, register), &value.to_le_bytes());
    }

    fn read(&self, device: usize, register: u64) -> u32 {
        let mut data = [0; 4];
        self.bus.read(address(device, register), &mut data);
        u32::from_le_bytes(data)
    }

    fn notified(&self, device: usize, queue: usize) {
        self.turn(device, |transport| transport.notified(queue));
    }

    fn host_ready(&self, device: usize) {
        self.turn(device, Transport::host_ready);
    }

    /// A turn of the device thread, with the laws checked.
    fn turn(&self, device: usize, act: impl FnOnce(&mut Transport)) {
        let mut transport = self.bus.devices[device].lock().expect("one thread");
        let promise = Promise::new(&transport, &self.memory);
        act(&mut transport);
        promise.check(&transport, &self.memory);
    }

    /// As a driver does it, with the three rings of each queue at the given places.
    fn set_up(&self, device: usize, place: impl Fn(u64, u64) -> u64) {
        for status in [0, 1, 3] {
            self.write(device, 0x70, status);
        }
        for (page, features) in [(0, 0), (1, 1)] {
            self.write(device, 0x24, page);
            self.write(device, 0x20, features);
        }
        self.write(device, 0x70, 11);
        for queue in 0..QUEUES {
            self.write(device, 0x30, low(queue));
            self.write(device, 0x38, 8);
            for (ring, register, align) in [(0, 0x80, 16), (1, 0x90, 2), (2, 0xa0, 4)] {
                self.write(device, register, low(place(queue, ring) & !(align - 1)));
                self.write(device, register + 4, 0);
            }
            self.write(device, 0x44, 1);
        }
        self.write(device, 0x70, 15);
    }

    /// Writes a chain of some descriptors, puts it on offer, and rings.
    fn offer(&self, device: usize, script: &mut Script<'_>) {
        let queue = usize::from(script.u8()) % QUEUES as usize;
        let first = u16::from(script.u8() % 8);
        let count = u16::from(script.u8() % 5);
        for index in 0..count {
            let shape = script.u8();
            let flags = u16::from(shape & 7) | u16::from(index + 1 < count && shape & 0x20 == 0);
            let next = if shape & 0x40 == 0 { (first + index + 1) % 8 } else { u16::from(script.u8()) };
            let at = if shape & 0x80 == 0 { 0x8000 | u64::from(script.u8()) << 4 } else { script.address() };
            self.descriptor(device, queue, (first + index) % 8, (at, script.length(), flags, next));
        }
        self.make_available(device, queue, first);
        self.notified(device, queue);
    }

    /// A request to a disk, nearly right.
    fn ask_disk(&self, device: usize, script: &mut Script<'_>) {
        let (kind, sector, length, odd) =
            (u32::from(script.u8() % 10), u64::from(script.u8() % 10), u32::from(script.u8() % 10) * 512, script.u8());
        let _ = self.memory.write_obj(kind, GuestAddress(0x8000));
        let _ = self.memory.write_obj(sector, GuestAddress(0x8008));
        let writable = u16::from(kind != 1 || odd & 1 != 0) * 2;
        self.descriptor(device, 0, 0, (0x8000, 16, 1, 1));
        self.descriptor(device, 0, 1, (0x9000, length ^ u32::from(odd >> 4), writable | 1, 2));
        self.descriptor(device, 0, 2, (0xf000, 1, if odd & 2 == 0 { 2 } else { 0 }, 0));
        self.make_available(device, 0, 0);
        self.notified(device, 0);
    }

    fn descriptor(&self, device: usize, queue: usize, index: u16, fields: (u64, u32, u16, u16)) {
        let Some([table, ..]) = self.rings(device, queue) else { return };
        let (address, length, flags, next) = fields;
        let at = table + u64::from(index) * 16;
        let bytes = [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        let _ = self.memory.write(&bytes.concat(), GuestAddress(at)); // A table at the end of memory loses its tail.
    }

    fn make_available(&self, device: usize, queue: usize, head: u16) {
        let Some([_, available, _]) = self.rings(device, queue) else { return };
        let Ok(index) = self.memory.read_obj::<u16>(GuestAddress(available + 2)) else { return };
        let _ = self.memory.write_obj(head, GuestAddress(available + 4 + u64::from(index % 8) * 2));
        let _ = self.memory.write_obj(index.wrapping_add(1), GuestAddress(available + 2));
    }

    fn rings(&self, device: usize, queue: usize) -> Option<[u64; 3]> {
        let device = self.bus.devices[device].lock().expect("one thread");
        geometry(&device).get(queue).map(|geometry| geometry.rings)
    }

    /// The supervisor, or a virtiofsd, writes.
    fn supervisor(&self, script: &mut Script<'_>) {
        let bytes = script.bytes(64);
        for mut peer in &self.peers {
            let _ = peer.write(bytes); // It may have hung up.
        }
    }

    /// Addresses and ports where something is, or nothing.
    fn strange_place(&self, script: &mut Script<'_>) {
        let at = script.u64();
        self.poke(at, script.bytes(9));
        self.bus.read(at, &mut [0; 8]);
        let port = if at & 1 == 0 { 0x3f8 + (at >> 1 & 7) as u16 } else { (at >> 16) as u16 };
        let _ = self.bus.ports.write(port, script.bytes(2)); // Switching off is the CPU loop's affair.
        self.bus.ports.read(port, &mut [0; 1]);
    }

    /// Whoever is at the other end of a socket reads what is there.
    fn drain(&self) {
        for mut peer in &self.peers {
            while peer.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
        }
    }
}

/// Truncates on purpose: places of a script are small.
fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

fn address(device: usize, register: u64) -> u64 {
    DEVICES + device as u64 * DEVICE_BYTES + register
}

fn device(kind: Kind, script: &mut Script<'_>, peers: &mut Vec<UnixStream>) -> Option<Box<dyn Device>> {
    let mut socket = || {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        theirs.set_nonblocking(true).expect("a socket");
        peers.push(theirs.try_clone().expect("a socket"));
        (ours, theirs)
    };
    let disk = |read_only| {
        let mut file = File::from(rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memory file"));
        file.write_all(&[7; 4096]).expect("a memory file");
        Box::new(Block::new(file, read_only, "root0").expect("a disk"))
    };
    Some(match kind {
        Kind::Console => Box::new(Console::new(socket().0).expect("a console")),
        Kind::Entropy => Box::new(Entropy),
        Kind::Balloon => Box::new(Balloon),
        Kind::Disk => disk(false),
        Kind::ReadOnlyDisk => disk(true),
        Kind::Share => {
            let (ours, theirs) = socket();
            virtiofsd(&theirs, script);
            Box::new(Share::new(ours, "share0").ok()?)
        }
        Kind::Card => {
            let (ours, _) = socket();
            ours.set_nonblocking(true).expect("a socket");
            Box::new(Card::new(ours.into(), [2, 0, 0, 0, 0, 1]))
        }
    })
}

/// All that a virtiofsd ever answers, before it is asked: well-formed as far as the script says, then anything, then nothing.
fn virtiofsd(mut socket: &UnixStream, script: &mut Script<'_>) {
    const GET_FEATURES: u32 = 1;
    const GET_PROTOCOL_FEATURES: u32 = 15;
    const GET_VRING_BASE: u32 = 11;
    let reply = |request: u32, value: u64| {
        [&request.to_le_bytes()[..], &5_u32.to_le_bytes(), &8_u32.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let mood = script.u8();
    let mut replies = Vec::new();
    if mood & 1 == 0 {
        let offered = 1 << 32 | u64::from(mood & 2) << 29 | u64::from(script.u16());
        replies.extend(reply(GET_FEATURES, offered));
        replies.extend(reply(GET_PROTOCOL_FEATURES, script.u64()).into_iter().take(if mood & 2 == 0 { 0 } else { 20 }));
        for _ in 0..mood >> 4 {
            replies.extend(reply(GET_VRING_BASE, script.u64()));
        }
    }
    replies.extend(script.bytes(64));
    socket.write_all(&replies).expect("room for a few replies");
    socket.shutdown(Shutdown::Write).expect("a socket");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn any_guest_is_survived(script in prop::collection::vec(any::<u8>(), 0..600)) {
            drive(&Kind::ALL, &script);
            for kind in Kind::ALL {
                drive(&[kind], &script);
            }
        }
    }
}
