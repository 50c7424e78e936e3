//! virtio-net (virtio 1.2, 5.1) on the queue of a tap device that the supervisor made in the pod's network namespace.
//!
//! Frames go through buffers of ours, not straight from the guest's memory to the kernel: the driver could change a frame while
//! the kernel parses it, and the kernel's parser of the header before it has had many bugs, so a header is checked and
//! written anew here. What cannot be sent is lost, as on any wire. A flood, from either
//! side, ends with the turn's chains, so it does not keep the thread from the channel by which the pod is stopped.

use super::device::{ActivatedQueues, Device, read_space, refuse};
use super::sys;
use anyhow::Result;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::*;
use virtio_queue::{Reader, Writer};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZE: u16 = 256;

const HEADER_BYTES: usize = 12;
/// A header, and the longest IP packet with its Ethernet header and VLAN tag.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + 18 + (64 << 10);
/// Buffers of one frame; the shortest that a driver in use offers are of 1.5 KiB. It is less than the chains of one turn.
const BUFFERS_MAX: usize = 64;

/// Flags and kinds of segmentation in the header before a frame are bytes.
const HDR_F_NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const HDR_GSO_NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const HDR_GSO_TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const HDR_GSO_TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;

/// The device.
pub(super) struct Card {
    tap: File,
    address: [u8; 6],
    features: u64,
    /// The kernel has not been told of the features. A CPU's thread, which learns them, may make no such call.
    untold: bool,
    incoming: Box<[u8]>,
    /// Bytes of a frame in `incoming` that waits for buffers of the driver's.
    waiting: usize,
    outgoing: Box<[u8]>,
}

impl Card {
    /// A card with this hardware address on a non-blocking queue.
    pub(super) fn new(tap: OwnedFd, address: [u8; 6]) -> Self {
        let buffer = || vec![0; FRAME_BYTES_MAX].into_boxed_slice();
        let (incoming, outgoing) = (buffer(), buffer());
        Self { tap: tap.into(), address, features: 0, untold: false, incoming, waiting: 0, outgoing }
    }

    /// Takes frames from the queue as long as the driver has room.
    fn receive(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if std::mem::take(&mut self.untold) {
            // Refused, the kernel does the work itself.
            let _ = sys::set_tap_offload(self.tap.as_fd(), offload(self.features));
        }
        loop {
            if self.waiting == 0 {
                match self.tap.read(&mut self.incoming) {
                    Ok(length) => self.waiting = length,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    // Nothing there, or the device was taken away under us: a cable that is pulled.
                    Err(_) => return Ok(()),
                }
            }
            if self.waiting < HEADER_BYTES {
                return refuse(); // The host's promise: a tap device gives whole frames.
            }
            if !self.deliver(active)? {
                return Ok(()); // The driver rings when it has room.
            }
        }
    }

    /// Puts the waiting frame into the driver's buffers; false if they are too few.
    fn deliver(&mut self, active: &mut ActivatedQueues<'_>) -> Result<bool> {
        let merged = self.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let mut buffers: Vec<(u16, Writer<'_>)> = Vec::new();
        let mut room = 0;
        while room < self.waiting {
            let Some(chain) = active.next(RECEIVE)? else {
                buffers.iter().for_each(|_| active.put_back(RECEIVE));
                return Ok(false);
            };
            let head = chain.head_index();
            let writer: Writer<'_> = chain.writer(active.memory)?;
            let bytes = writer.available_bytes();
            room += bytes;
            // A driver that merges no buffers has promised that each is long enough.
            let too_short = bytes == 0 || (!merged && room < self.waiting);
            if too_short || buffers.len() == BUFFERS_MAX {
                return refuse();
            }
            buffers.push((head, writer));
        }
        let count = u16::try_from(buffers.len())?;
        let mut frame = &mut self.incoming[..self.waiting];
        frame[10..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
        let mut used = Vec::with_capacity(buffers.len());
        for (head, mut writer) in buffers {
            let length = frame.len().min(writer.available_bytes());
            let (part, rest) = frame.split_at_mut(length);
            writer.write_all(part)?;
            used.push((head, u32::try_from(length)?));
            frame = rest;
        }
        self.waiting = 0;
        active.give_back_together(RECEIVE, &used)?;
        Ok(true)
    }

    /// Sends the driver's frames.
    fn transmit(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        while let Some(chain) = active.next(TRANSMIT)? {
            let head = chain.head_index();
            let mut reader: Reader<'_> = chain.reader(active.memory)?;
            let length = reader.available_bytes();
            if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) {
                return refuse();
            }
            reader.read_exact(&mut self.outgoing[..length])?;
            active.give_back(TRANSMIT, head, 0)?;
            let frame = &mut self.outgoing[..length];
            if let Some((header, frame_bytes)) = frame.split_first_chunk_mut()
                && let Some(sound) = checked(*header, frame_bytes.len(), self.features)
            {
                *header = sound;
                let _ = self.tap.write(frame); // A full or pulled cable loses frames.
            }
        }
        Ok(())
    }
}

/// The header as the kernel may see it; none for one that asks for what was not agreed, or points out of its frame.
fn checked(header: [u8; HEADER_BYTES], frame_bytes: usize, features: u64) -> Option<[u8; HEADER_BYTES]> {
    let [flags, kind, head0, head1, size0, size1, start0, start1, offset0, offset1, _, _] = header;
    let checksum = flags & HDR_F_NEEDS_CSUM != 0;
    let number = |low, high| usize::from(u16::from_le_bytes([low, high]));
    let mut sound = [0; HEADER_BYTES];
    if checksum {
        let end = number(start0, start1) + number(offset0, offset1) + 2;
        if features & 1 << VIRTIO_NET_F_CSUM == 0 || end > frame_bytes {
            return None;
        }
        sound[0] = HDR_F_NEEDS_CSUM;
        sound[6..10].copy_from_slice(&[start0, start1, offset0, offset1]);
    }
    let agreed = match kind {
        HDR_GSO_NONE => return Some(sound),
        HDR_GSO_TCPV4 => features & 1 << VIRTIO_NET_F_HOST_TSO4 != 0,
        HDR_GSO_TCPV6 => features & 1 << VIRTIO_NET_F_HOST_TSO6 != 0,
        _ => false,
    };
    if !agreed || !checksum || number(size0, size1) == 0 || number(head0, head1) > frame_bytes {
        return None;
    }
    sound[1] = kind;
    sound[2..6].copy_from_slice(&[head0, head1, size0, size1]);
    Some(sound)
}

/// What the driver took over from the kernel.
fn offload(features: u64) -> u32 {
    let pairs = [
        (1 << VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
        (1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
        (1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    ];
    pairs.iter().filter(|(needed, _)| features & needed == *needed).fold(0, |all, (_, flag)| all | flag)
}

impl Device for Card {
    fn kind(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        let segments = 1 << VIRTIO_NET_F_GUEST_TSO4
            | 1 << VIRTIO_NET_F_GUEST_TSO6
            | 1 << VIRTIO_NET_F_HOST_TSO4
            | 1 << VIRTIO_NET_F_HOST_TSO6;
        1 << VIRTIO_NET_F_CSUM
            | 1 << VIRTIO_NET_F_GUEST_CSUM
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | segments
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_space(&self.address, offset, data);
    }

    fn activate(&mut self, features: u64, _active: &mut ActivatedQueues<'_>) -> Result<()> {
        self.features = features;
        self.untold = true;
        Ok(())
    }

    fn reset(&mut self) {
        self.waiting = 0;
    }

    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if queue == RECEIVE { self.receive(active) } else { self.transmit(active) }
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.tap.as_fd())
    }

    fn host_ready(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if active.is_ready(RECEIVE) { self.receive(active) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// flags, kind, head_bytes, size, start, offset.
    fn header(flags: u8, kind: u8, numbers: [u16; 4]) -> [u8; HEADER_BYTES] {
        let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7];
        for (place, number) in header[2..10].chunks_mut(2).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        header
    }

    #[test]
    fn only_headers_that_were_agreed_and_point_into_their_frame_pass() {
        let all = 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6;
        for (given, features, passes) in [
            (header(0, 0, [0; 4]), 0, true),
            (header(1, 0, [0, 0, 34, 16]), all, true),
            (header(1, 0, [0, 0, 34, 16]), 0, false),
            (header(1, 0, [0, 0, 98, 0]), all, true),
            (header(1, 0, [0, 0, 98, 1]), all, false),
            (header(1, 0, [0, 0, u16::MAX, u16::MAX]), all, false),
            (header(1, 1, [54, 40, 34, 16]), all, true),
            (header(1, 4, [74, 40, 54, 16]), all, true),
            (header(1, 4, [74, 40, 54, 16]), 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4, false),
            (header(0, 1, [54, 40, 34, 16]), all, false),
            (header(1, 1, [54, 0, 34, 16]), all, false),
            (header(1, 1, [101, 40, 34, 16]), all, false),
            (header(1, 0x81, [54, 40, 34, 16]), all, false),
            (header(1, 3, [54, 40, 34, 16]), all, false),
        ] {
            assert_eq!(checked(given, 100, features).is_some(), passes, "{given:?}");
        }
        // What does not count is not passed on.
        assert_eq!(checked(header(0xfe, 0, [9; 4]), 100, all), Some([0; HEADER_BYTES]));
    }

    #[test]
    fn the_kernel_is_told_what_the_driver_took() {
        for (features, told) in [
            (0, 0),
            (1 << VIRTIO_NET_F_GUEST_TSO4, 0),
            (1 << VIRTIO_NET_F_GUEST_CSUM, 1),
            (1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6, 3),
            (u64::MAX, 7),
        ] {
            assert_eq!(offload(features), told);
        }
    }
}
