//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2.2). The guest writes any register at any time with any value; what the
//! specification does not allow at that moment is ignored. Above all the geometry of queues is frozen once the driver said
//! DRIVER_OK, because devices rely on what was checked then.

use super::device::{ActivatedQueues, CHAINS_MAX, Device};
use super::memory::Memory;
use anyhow::{Context, Result};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

/// `VIRTIO_MMIO_MAGIC_VALUE`, `VIRTIO_MMIO_VERSION` and `VIRTIO_MMIO_VENDOR_ID` read as these.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"pod0");
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// The status of a device whose driver has got as far as `DRIVER`, and as far as `FEATURES_OK`.
const DRIVER_FOUND: u32 = ACKNOWLEDGE | DRIVER;
const FEATURES_AGREED: u32 = DRIVER_FOUND | FEATURES_OK;

/// One device's registers and queues.
pub(super) struct Transport {
    device: Box<dyn Device>,
    memory: Arc<Memory>,
    queues: Vec<Queue>,
    /// One for each queue. KVM signals it when the driver writes VIRTIO_MMIO_QUEUE_NOTIFY (an ioeventfd), so that the thread of
    /// devices serves queues and a CPU's thread, whose system calls are few, never touches one. This device signals it when it
    /// has not served a queue to its end.
    queue_eventfds: Vec<EventFd>,
    interrupt: EventFd,
    interrupt_status: u32,
    status: u32,
    device_features_page: u32,
    driver_features_page: u32,
    driver_features: u64,
    queue: usize,
}

impl Transport {
    /// A device in reset. `interrupt` reaches the guest by an irqfd.
    pub(super) fn new(device: Box<dyn Device>, memory: Arc<Memory>, interrupt: EventFd) -> Result<Self> {
        let queues: Vec<_> = device.queue_sizes().iter().map(|size| Queue::new(*size)).collect::<Result<_, _>>()?;
        let eventfd = |_: &Queue| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("make an event fd");
        let queue_eventfds = queues.iter().map(eventfd).collect::<Result<_>>()?;
        Ok(Self {
            device,
            memory,
            queues,
            queue_eventfds,
            interrupt,
            interrupt_status: 0,
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            queue: 0,
        })
    }

    /// The eventfds of the queues. After a signal the caller must call [`Self::notified`].
    pub(super) fn queue_eventfds(&self) -> &[EventFd] {
        &self.queue_eventfds
    }

    /// What a test looks at: the queues, and whether the driver runs the device.
    #[cfg(any(test, feature = "hostile"))]
    pub(super) fn inspect(&self) -> (&[Queue], bool) {
        (&self.queues, self.is_running())
    }

    /// The fd that the device waits for.
    pub(super) fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.host_fd()
    }

    /// The guest reads a register.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= VIRTIO_MMIO_CONFIG.into() {
            if let Ok(offset) = usize::try_from(offset - u64::from(VIRTIO_MMIO_CONFIG)) {
                self.device.read_config(offset, data);
            }
            return;
        }
        let Ok(data): Result<&mut [u8; 4], _> = data.try_into() else { return };
        let queue = self.queues.get(self.queue);
        let value = match register(offset) {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.kind(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => page(self.features(), self.device_features_page),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| u32::from(queue.max_size())),
            VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready())),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.status,
            // Shared memory regions: none, whose length reads as all ones.
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        };
        *data = value.to_le_bytes();
    }

    /// The guest writes a register.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= VIRTIO_MMIO_CONFIG.into() {
            if let Ok(offset) = usize::try_from(offset - u64::from(VIRTIO_MMIO_CONFIG))
                && self.status & DRIVER != 0
            {
                self.device.write_config(offset, data);
            }
            return;
        }
        let Ok(data): Result<[u8; 4], _> = data.try_into() else { return };
        let value = u32::from_le_bytes(data);
        let register = register(offset);
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.set_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_page = value,
            VIRTIO_MMIO_QUEUE_SEL => self.queue = value as usize,
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.set_queue(register, value),
        }
    }

    fn features(&self) -> u64 {
        self.device.features() | VERSION_1
    }

    fn set_features(&mut self, value: u32) {
        if self.status & (DRIVER | FEATURES_OK) != DRIVER || self.driver_features_page > 1 {
            return;
        }
        let shift = 32 * self.driver_features_page;
        self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK, and a queue that is ready does not move.
    fn set_queue(&mut self, register: u32, value: u32) {
        let setting_up = self.status & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET) == FEATURES_OK;
        let Some(queue) = self.queues.get_mut(self.queue).filter(|_| setting_up) else { return };
        if queue.ready() {
            return;
        }
        match register {
            // What is no power of two, or too large, is ignored.
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// The status only grows, one step at a time; zero resets.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let added = value & !self.status;
        let steps = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        match (self.status & steps, added) {
            (_, added) if added & FAILED != 0 => self.status |= FAILED,
            (0, ACKNOWLEDGE) | (ACKNOWLEDGE, DRIVER) => {
                self.status |= added;
            }
            // The driver reads back whether its choice was taken.
            (DRIVER_FOUND, FEATURES_OK)
                if self.driver_features & !self.features() == 0 && self.driver_features & VERSION_1 != 0 =>
            {
                self.status |= FEATURES_OK;
            }
            (FEATURES_AGREED, DRIVER_OK) if self.status & (FAILED | NEEDS_RESET) == 0 => {
                self.activate();
            }
            _ => {}
        }
    }

    fn activate(&mut self) {
        self.status |= DRIVER_OK;
        let memory = Arc::clone(&self.memory);
        let geometry = |queue: &Queue| !queue.ready() || queue.is_valid(&*memory);
        if !self.queues.iter().all(geometry) {
            return self.broken();
        }
        let features = self.driver_features;
        self.with_device(|device, active| device.activate(features, active));
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.iter_mut().for_each(QueueT::reset);
        self.status = 0;
        self.interrupt_status = 0;
        self.driver_features = 0;
        (self.queue, self.device_features_page, self.driver_features_page) = (0, 0, 0);
    }

    /// The driver rang for a queue.
    pub(super) fn notified(&mut self, queue: usize) {
        if self.queues.get(queue).is_some_and(Queue::ready) {
            self.with_device(|device, active| device.notified(queue, active));
        }
    }

    /// The device's fd is ready.
    pub(super) fn host_ready(&mut self) {
        self.with_device(|device, active| device.host_ready(active));
    }

    /// A device sees its queues only while the driver runs it.
    fn with_device(&mut self, act: impl FnOnce(&mut dyn Device, &mut ActivatedQueues<'_>) -> Result<()>) {
        if !self.is_running() {
            return;
        }
        let mut interrupt = false;
        let mut active = ActivatedQueues {
            memory: &self.memory,
            queues: &mut self.queues,
            interrupt: &mut interrupt,
            left: CHAINS_MAX,
            unserved: 0,
        };
        let result = act(self.device.as_mut(), &mut active);
        let unserved = active.unserved;
        for (_, eventfd) in self.queue_eventfds.iter().enumerate().filter(|(queue, _)| unserved & 1 << queue != 0) {
            let _ = eventfd.write(1); // Full: it is signalled already.
        }
        if interrupt {
            self.raise(VIRTIO_MMIO_INT_VRING);
        }
        if result.is_err() {
            self.broken();
        }
    }

    fn is_running(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET | FAILED) == DRIVER_OK
    }

    /// The device stops until it is reset. What the driver did is its own affair, so nothing is printed.
    fn broken(&mut self) {
        self.status |= NEEDS_RESET;
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    fn raise(&mut self, reason: u32) {
        self.interrupt_status |= reason;
        let _ = self.interrupt.write(1); // Full: an interrupt is pending already.
    }
}

fn page(features: u64, page: u32) -> u32 {
    match page {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// No register lies behind the first 256 bytes.
fn register(offset: u64) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
