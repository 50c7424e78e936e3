//! virtio-fs (virtio 1.2, 5.11), served by a virtiofsd over vhost-user: requests go from the guest's rings to that process, which
//! maps the guest's memory itself. Here are only the configuration, the geometry of the queues and the eventfds between driver and virtiofsd.

use super::device::{ActivatedQueues, Device, read_space, refuse};
use super::memory::Memory;
use anyhow::{Context, Result, ensure};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

const TAG_BYTES: usize = 36;
/// High-priority requests, and the others.
const QUEUES: usize = 2;
const QUEUE_SIZE: u16 = 128;

/// The device.
pub(super) struct Share {
    backend: Frontend,
    tag: [u8; TAG_BYTES],
    /// What virtiofsd offers, and what the driver took.
    offered: u64,
    accepted: u64,
    /// virtiofsd signals used buffers here (VHOST_USER_SET_VRING_CALL).
    call: EventFd,
    /// Available buffers are signalled to virtiofsd here (VHOST_USER_SET_VRING_KICK).
    ioeventfds: [EventFd; QUEUES],
    state: State,
}

/// virtiofsd is set up by the device thread at the first request, so that a CPU's thread, which handles the driver's registers,
/// needs no socket calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// virtiofsd has no rings.
    Idle,
    /// It has these.
    Running,
    /// It has rings that the driver took back.
    Stale,
}

impl Share {
    /// A share that the virtiofsd at the other end of `socket` serves.
    pub(super) fn new(socket: UnixStream, name: &str) -> Result<Self> {
        ensure!(name.len() <= TAG_BYTES, "share tag `{name}` is longer than {TAG_BYTES} bytes");
        let mut tag = [0; TAG_BYTES];
        tag[..name.len()].copy_from_slice(name.as_bytes());
        let mut backend = Frontend::from_stream(socket, QUEUES as u64);
        backend.set_owner().context("greet virtiofsd")?;
        let offered = backend.get_features().context("ask virtiofsd for its features")?;
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if offered & protocol != 0 {
            let known = backend.get_protocol_features().context("ask virtiofsd for its features")?;
            let wanted = known & VhostUserProtocolFeatures::REPLY_ACK;
            backend.set_protocol_features(wanted).context("agree with virtiofsd")?;
        }
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("make an event fd");
        let ioeventfds = [event()?, event()?];
        Ok(Self { backend, tag, offered, accepted: 0, call: event()?, ioeventfds, state: State::Idle })
    }

    fn set_up(&mut self, active: &ActivatedQueues<'_>) -> Result<()> {
        if self.state == State::Stale {
            for index in 0..QUEUES {
                self.backend.get_vring_base(index)?; // Stops the ring.
            }
        }
        let protocol = self.offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.backend.set_features(self.accepted | protocol)?;
        let regions = active.memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region);
        self.backend.set_mem_table(&regions.collect::<Result<Vec<_>, _>>()?)?;
        for (index, queue) in active.queues.iter().enumerate().filter(|(_, queue)| queue.ready()) {
            self.backend.set_vring_num(index, queue.size())?;
            self.backend.set_vring_addr(index, &rings(queue, active.memory)?)?;
            self.backend.set_vring_base(index, 0)?;
            self.backend.set_vring_call(index, &self.call)?;
            self.backend.set_vring_kick(index, &self.ioeventfds[index])?;
            if protocol != 0 {
                self.backend.set_vring_enable(index, true)?;
            }
        }
        self.state = State::Running;
        Ok(())
    }
}

/// Where the rings are, in this process's addresses, which virtiofsd finds again in the table of memory. The queue was
/// checked to lie in guest memory when the driver set DRIVER_OK.
fn rings(queue: &Queue, memory: &Memory) -> Result<VringConfigData> {
    let address = |guest: u64| Ok::<u64, anyhow::Error>(memory.get_host_address(GuestAddress(guest))? as u64);
    Ok(VringConfigData {
        queue_max_size: queue.max_size(),
        queue_size: queue.size(),
        flags: 0,
        desc_table_addr: address(queue.desc_table())?,
        used_ring_addr: address(queue.used_ring())?,
        avail_ring_addr: address(queue.avail_ring())?,
        log_addr: None,
    })
}

impl Device for Share {
    fn kind(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn features(&self) -> u64 {
        self.offered & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let requests = 1_u32.to_le_bytes();
        read_space(&[&self.tag[..], &requests].concat(), offset, data);
    }

    fn activate(&mut self, features: u64, _active: &mut ActivatedQueues<'_>) -> Result<()> {
        self.accepted = features;
        Ok(())
    }

    fn reset(&mut self) {
        if self.state == State::Running {
            self.state = State::Stale;
        }
    }

    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if self.state != State::Running {
            self.set_up(active)?;
        }
        let Some(ioeventfd) = self.ioeventfds.get(queue) else { return refuse() };
        Ok(ioeventfd.write(1)?)
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(super::sys::borrow(&self.call))
    }

    fn host_ready(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if self.call.read().is_ok() {
            *active.interrupt = true;
        }
        Ok(())
    }
}
