//! Frames between a driver and a cable: how they lie in buffers, and what never gets out.

use super::memory::{self, Memory};
use super::mmio::Transport;
use super::net::Card;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

fn write(transport: &mut Transport, at: u64, value: u32) {
    transport.write(at, &value.to_le_bytes());
}

fn read(transport: &mut Transport, at: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(at, &mut data);
    u32::from_le_bytes(data)
}

/// Both ends of a queue of frames, two of which wait to be received.
fn cable() -> (UnixDatagram, UnixDatagram) {
    let (queue, other) = UnixDatagram::pair().unwrap();
    queue.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    for length in [72_usize, 5000] {
        other.send(&vec![length.to_le_bytes()[0]; length]).unwrap();
    }
    (queue, other)
}

/// A descriptor: address, length, flags (1 next, 2 write, 4 indirect), next.
fn descriptor(memory: &Memory, index: u64, address: u64, length: u32, flags: u16, next: u16) {
    let at = 0x1000 + index * 16;
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(length, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}

/// A card whose driver took `features`, with its end of the cable; descriptors, rings and places as for [`offer`].
fn card(features: u32) -> (Transport, Arc<Memory>, UnixDatagram) {
    let (queue, other) = cable();
    let memory = Arc::new(memory::map(1 << 20, false).unwrap());
    let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let card = Box::new(Card::new(queue.into(), [2, 0, 0, 0, 0, 1]));
    let mut transport = Transport::new(card, Arc::clone(&memory), interrupt).unwrap();
    for status in [0, 1, 3] {
        write(&mut transport, 0x70, status);
    }
    for (page, features) in [(0, features), (1, 1)] {
        write(&mut transport, 0x24, page);
        write(&mut transport, 0x20, features);
    }
    write(&mut transport, 0x70, 11);
    for (queue, places) in [(0, [0x1000, 0x2000, 0x3000]), (1, [0x4000, 0x5000, 0x6000])] {
        write(&mut transport, 0x30, queue);
        write(&mut transport, 0x38, 128);
        for (register, place) in [0x80, 0x90, 0xa0].into_iter().zip(places) {
            write(&mut transport, register, place);
        }
        write(&mut transport, 0x44, 1);
    }
    write(&mut transport, 0x70, 15);
    assert_eq!(read(&mut transport, 0x70), 15);
    (transport, memory, other)
}

const MERGED: u32 = 1 << 15;

/// Makes `count` receive buffers of this length available, in the first ones of the ring.
fn buffers(memory: &Memory, count: u16, length: u32) {
    for index in 0..count {
        descriptor(memory, index.into(), 0x8000 + u64::from(index) * 0x1000, length, 2, 0);
        memory.write_obj(index, GuestAddress(0x2004 + 2 * u64::from(index))).unwrap();
    }
    memory.write_obj(count, GuestAddress(0x2002)).unwrap();
}

fn used(memory: &Memory) -> (u16, Vec<(u32, u32)>) {
    let count: u16 = memory.read_obj(GuestAddress(0x3002)).unwrap();
    let element = |index: u64| memory.read_obj::<[u32; 2]>(GuestAddress(0x3004 + 8 * index)).unwrap();
    (count, (0..count.into()).map(element).map(|[head, length]| (head, length)).collect())
}

#[test]
fn a_frame_lies_in_as_many_buffers_as_it_needs() {
    // The cable has a frame of 72 bytes and one of 5000.
    let (mut transport, memory, _cable) = card(MERGED);
    buffers(&memory, 3, 2048);
    transport.notified(0);
    assert_eq!(used(&memory), (1, vec![(0, 72)]), "the second frame does not fit yet");
    buffers(&memory, 4, 2048);
    transport.notified(0);
    assert_eq!(used(&memory), (4, vec![(0, 72), (1, 2048), (2, 2048), (3, 904)]));
    let bytes = |at| memory.read_obj::<[u8; 13]>(GuestAddress(at)).unwrap();
    assert_eq!(bytes(0x8000)[10..], [1, 0, 72], "the number of buffers stands in the first");
    assert_eq!(bytes(0x9000)[10..], [3, 0, 136]);
    assert_eq!(bytes(0xa000)[10..], [136, 136, 136]);
}

#[test]
fn buffers_that_cannot_hold_a_frame_stop_the_card() {
    for (features, length) in [(0, 40), (MERGED, 0)] {
        let (mut transport, memory, _cable) = card(features);
        buffers(&memory, 4, length);
        transport.notified(0);
        assert_eq!(read(&mut transport, 0x70) & 64, 64, "{features} {length}");
    }
}

#[test]
fn only_sound_frames_reach_the_cable() {
    // Length in all, flags and kind of segments, whether it is sent, whether the card goes on.
    for (length, flags, kind, sent, goes_on) in [
        (72_u32, 0_u8, 0_u8, true, true),
        (72, 1, 0, false, true),
        (72, 0, 1, false, true),
        (11, 0, 0, false, false),
        (0x2_0000, 0, 0, false, false),
    ] {
        let (mut transport, memory, cable) = card(0);
        memory.write_obj([flags, kind], GuestAddress(0x8000)).unwrap();
        let at = GuestAddress(0x4000);
        memory.write_obj(0x8000_u64, at).unwrap();
        memory.write_obj([length, 0], GuestAddress(0x4008)).unwrap();
        memory.write_obj(1_u16, GuestAddress(0x5002)).unwrap();
        transport.notified(1);
        let got = cable.recv(&mut [0; 9000]).ok();
        assert_eq!(got, sent.then_some(length as usize), "{length} {flags} {kind}");
        assert_eq!(read(&mut transport, 0x70) & 64 == 0, goes_on, "{length} {flags} {kind}");
    }
}
