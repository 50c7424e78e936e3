//! virtio-blk (virtio 1.2, 5.2) on a raw file: the format is never guessed, and nothing in the content can name another file.
//! A read-only disk's file is opened so, whatever the guest believes.

use super::device::{ActivatedQueues, Device, read_space, refuse};
use super::memory::Memory;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

const SECTOR_BYTES: u64 = 512;
const HEADER_BYTES: u32 = 16;
const SERIAL_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// Data segments in one request: the queue's size less header and status.
const SEGMENTS_MAX: u32 = 126;

/// The status at the end of a request is one byte.
const S_OK: u8 = VIRTIO_BLK_S_OK as u8;
const S_IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const S_UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

/// The device.
#[derive(Debug)]
pub(super) struct Block {
    file: File,
    sectors: u64,
    read_only: bool,
    serial: [u8; SERIAL_BYTES],
}

/// A request, its shape checked.
struct Request {
    kind: u32,
    sector: u64,
    data: Vec<Descriptor>,
    status: GuestAddress,
}

impl Block {
    /// A disk with the content of `file`.
    pub(super) fn new(file: File, read_only: bool, name: &str) -> Result<Self> {
        let bytes = file.metadata().context("read the length of a disk")?.len();
        let mut serial = [0; SERIAL_BYTES];
        let length = name.len().min(SERIAL_BYTES);
        serial[..length].copy_from_slice(&name.as_bytes()[..length]);
        Ok(Self { file, sectors: bytes / SECTOR_BYTES, read_only, serial })
    }

    /// Carries a request out: its status, and how many bytes were written to the driver's buffers.
    fn execute(&mut self, request: &Request, memory: &Memory) -> (u8, u32) {
        let result = match request.kind {
            VIRTIO_BLK_T_IN => self.transfer(request, memory, true),
            VIRTIO_BLK_T_OUT if self.read_only => return (S_IOERR, 0),
            VIRTIO_BLK_T_OUT => self.transfer(request, memory, false),
            VIRTIO_BLK_T_FLUSH => self.file.sync_data().map(|()| 0).map_err(Into::into),
            VIRTIO_BLK_T_GET_ID => self.identify(request, memory),
            _ => return (S_UNSUPP, 0),
        };
        match result {
            Ok(written) => (S_OK, written),
            Err(_) => (S_IOERR, 0), // The guest sees an I/O error, as from a bad disk.
        }
    }

    fn transfer(&mut self, request: &Request, memory: &Memory, to_guest: bool) -> Result<u32> {
        let length = request.data.iter().try_fold(0_u32, |sum, part| sum.checked_add(part.len())).context("length")?;
        let sectors = u64::from(length).div_ceil(SECTOR_BYTES);
        let end = request.sector.checked_add(sectors).context("sector")?;
        if end > self.sectors || u64::from(length) % SECTOR_BYTES != 0 {
            return refuse();
        }
        self.file.seek(SeekFrom::Start(request.sector * SECTOR_BYTES))?;
        for part in &request.data {
            if part.is_write_only() != to_guest {
                return refuse();
            }
            if to_guest {
                memory.read_exact_volatile_from(part.addr(), &mut self.file, part.len() as usize)?;
            } else {
                memory.write_all_volatile_to(part.addr(), &mut self.file, part.len() as usize)?;
            }
        }
        Ok(if to_guest { length } else { 0 })
    }

    fn identify(&self, request: &Request, memory: &Memory) -> Result<u32> {
        let [part] = request.data.as_slice() else { return refuse() };
        if !part.is_write_only() {
            return refuse();
        }
        let length = (part.len() as usize).min(SERIAL_BYTES);
        memory.write_slice(&self.serial[..length], part.addr())?;
        Ok(u32::try_from(length)?)
    }
}

/// Header, data, status: each in descriptors of its own, which is how every driver in use lays a request out.
fn parse(chain: DescriptorChain<&Memory>, memory: &Memory) -> Result<Request> {
    let mut parts: Vec<Descriptor> = chain.take(SEGMENTS_MAX as usize + 3).collect();
    if parts.len() < 2 || parts.len() > SEGMENTS_MAX as usize + 2 {
        return refuse();
    }
    let header = parts.remove(0);
    let Some(status) = parts.pop() else { return refuse() };
    if header.is_write_only() || header.len() < HEADER_BYTES || !status.is_write_only() || status.len() < 1 {
        return refuse();
    }
    let mut bytes = [0; HEADER_BYTES as usize];
    memory.read_slice(&mut bytes, header.addr())?;
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = bytes;
    Ok(Request {
        kind: u32::from_le_bytes([k0, k1, k2, k3]),
        sector: u64::from_le_bytes(sector),
        data: parts,
        status: status.addr(),
    })
}

impl Device for Block {
    fn kind(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH | if self.read_only { 1 << VIRTIO_BLK_F_RO } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        // capacity, size_max, seg_max.
        let config = [&self.sectors.to_le_bytes()[..], &[0; 4], &SEGMENTS_MAX.to_le_bytes()].concat();
        read_space(&config, offset, data);
    }

    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()> {
        while let Some(chain) = active.next(queue)? {
            let head = chain.head_index();
            let request = parse(chain, active.memory)?;
            let (status, written) = self.execute(&request, active.memory);
            active.memory.write_obj(status, request.status)?;
            active.give_back(queue, head, written.saturating_add(1))?;
        }
        Ok(())
    }
}
