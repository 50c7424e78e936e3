//! virtio-rng (virtio 1.2, 5.4): random bytes of the host's kernel, so that a guest has entropy from its first moment.

use super::device::{ActivatedQueues, Device};
use anyhow::Result;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::Write;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::Writer;

/// One answer; a driver that asks for more asks again.
const ANSWER_BYTES_MAX: usize = 4096;

/// The device.
#[derive(Debug)]
pub(super) struct Entropy;

impl Device for Entropy {
    fn kind(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()> {
        let mut bytes = [0; ANSWER_BYTES_MAX];
        while let Some(chain) = active.next(queue)? {
            let head = chain.head_index();
            let mut writer: Writer<'_> = chain.writer(active.memory)?;
            let room = writer.available_bytes().min(ANSWER_BYTES_MAX);
            let count = getrandom(&mut bytes[..room], GetRandomFlags::empty())?;
            writer.write_all(&bytes[..count])?;
            active.give_back(queue, head, u32::try_from(count)?)?;
        }
        Ok(())
    }
}
