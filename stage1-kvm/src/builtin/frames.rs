//! Frames between a driver and a cable: how they lie in buffers, and what never gets out.

use super::driver::{STATUS, descriptor, go, needs_reset, negotiate, place, read, transport};
use super::memory::Memory;
use super::mmio::Transport;
use super::net::Card;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

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

/// A card whose driver took `features`, with its end of the cable. Its receive queue has the rings of [`super::driver`]'s
/// descriptors, its transmit queue others.
fn card(features: u32) -> (Transport, Arc<Memory>, UnixDatagram) {
    let (queue, other) = cable();
    let (mut transport, memory) = transport(Box::new(Card::new(queue.into(), [2, 0, 0, 0, 0, 1])));
    negotiate(&mut transport, features);
    place(&mut transport, 0, 128, [0x1000, 0x2000, 0x3000]);
    place(&mut transport, 1, 128, [0x4000, 0x5000, 0x6000]);
    go(&mut transport);
    assert_eq!(read(&mut transport, STATUS), 15);
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
        assert!(needs_reset(&mut transport), "{features} {length}");
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
        assert_eq!(!needs_reset(&mut transport), goes_on, "{length} {flags} {kind}");
    }
}
