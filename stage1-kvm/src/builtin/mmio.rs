//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2.2). The guest writes any register at any time with any value; what the
//! specification does not allow at that moment is ignored. Above all the geometry of queues is frozen once the driver said
//! DRIVER_OK, because devices rely on what was checked then.

use super::device::{Active, CHAINS_MAX, Device};
use super::memory::Memory;
use anyhow::{Context, Result, bail};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"pod0");
const VERSION_1: u64 = 1 << 32;
/// Device-specific configuration.
const CONFIG: u64 = 0x100;
/// The register of notifications. Ioeventfds watch it, so that the thread of devices serves them and a CPU's thread, whose
/// system calls are few, never touches a queue.
pub(super) const QUEUE_NOTIFY: u64 = 0x50;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

const INTERRUPT_QUEUE: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

/// One device's registers and queues.
pub(super) struct Transport {
    device: Box<dyn Device>,
    memory: Arc<Memory>,
    queues: Vec<Queue>,
    /// One for each queue: the driver rings it, and this device itself when it was not done with a queue.
    bells: Vec<EventFd>,
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
        let bell = |_: &Queue| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("make an event fd");
        let bells = queues.iter().map(bell).collect::<Result<_>>()?;
        Ok(Self {
            device,
            memory,
            queues,
            bells,
            interrupt,
            interrupt_status: 0,
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            queue: 0,
        })
    }

    /// The bells of the queues: when one rings, its queue wants [`Self::notified`].
    pub(super) fn bells(&self) -> &[EventFd] {
        &self.bells
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
        if offset >= CONFIG {
            if let Ok(offset) = usize::try_from(offset - CONFIG) {
                self.device.read_config(offset, data);
            }
            return;
        }
        let Ok(data): Result<&mut [u8; 4], _> = data.try_into() else { return };
        let queue = self.queues.get(self.queue);
        let value = match offset {
            0x00 => MAGIC,
            0x04 => 2,
            0x08 => self.device.kind(),
            0x0c => VENDOR,
            0x10 => page(self.features(), self.device_features_page),
            0x34 => queue.map_or(0, |queue| u32::from(queue.max_size())),
            0x44 => queue.map_or(0, |queue| u32::from(queue.ready())),
            0x60 => self.interrupt_status,
            0x70 => self.status,
            // Shared memory regions: none, whose length reads as all ones.
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            _ => 0,
        };
        *data = value.to_le_bytes();
    }

    /// The guest writes a register.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            if let Ok(offset) = usize::try_from(offset - CONFIG)
                && self.status & DRIVER != 0
            {
                self.device.write_config(offset, data);
            }
            return;
        }
        let Ok(data): Result<[u8; 4], _> = data.try_into() else { return };
        let value = u32::from_le_bytes(data);
        match offset {
            0x14 => self.device_features_page = value,
            0x20 => self.set_features(value),
            0x24 => self.driver_features_page = value,
            0x30 => self.queue = value as usize,
            0x38 | 0x44 | 0x80..=0xa4 => self.set_queue(offset, value),
            0x64 => self.interrupt_status &= !value,
            0x70 => self.set_status(value),
            _ => {}
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
    fn set_queue(&mut self, offset: u64, value: u32) {
        let setting_up = self.status & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET) == FEATURES_OK;
        let Some(queue) = self.queues.get_mut(self.queue).filter(|_| setting_up) else { return };
        if queue.ready() {
            return;
        }
        match offset {
            // What is no power of two, or too large, is ignored.
            0x38 => queue.set_size(u16::try_from(value).unwrap_or(0)),
            0x44 => queue.set_ready(value == 1),
            0x80 => queue.set_desc_table_address(Some(value), None),
            0x84 => queue.set_desc_table_address(None, Some(value)),
            0x90 => queue.set_avail_ring_address(Some(value), None),
            0x94 => queue.set_avail_ring_address(None, Some(value)),
            0xa0 => queue.set_used_ring_address(Some(value), None),
            0xa4 => queue.set_used_ring_address(None, Some(value)),
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
            (0, ACKNOWLEDGE) | (ACKNOWLEDGE, DRIVER) => self.status |= added,
            // The driver reads back whether its choice was taken.
            (3, FEATURES_OK)
                if self.driver_features & !self.features() == 0 && self.driver_features & VERSION_1 != 0 =>
            {
                self.status |= FEATURES_OK;
            }
            (0xb, DRIVER_OK) if self.status & (FAILED | NEEDS_RESET) == 0 => self.activate(),
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
    fn with_device(&mut self, act: impl FnOnce(&mut dyn Device, &mut Active<'_>) -> Result<()>) {
        if !self.is_running() {
            return;
        }
        let mut interrupt = false;
        let mut active = Active {
            memory: &self.memory,
            queues: &mut self.queues,
            interrupt: &mut interrupt,
            left: CHAINS_MAX,
            unserved: 0,
        };
        let result = act(self.device.as_mut(), &mut active);
        let unserved = active.unserved;
        for (_, bell) in self.bells.iter().enumerate().filter(|(queue, _)| unserved & 1 << queue != 0) {
            let _ = bell.write(1); // Full: it rings already.
        }
        if interrupt {
            self.raise(INTERRUPT_QUEUE);
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
        self.raise(INTERRUPT_CONFIG);
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

/// Copies what the configuration space `config` has at `offset` into `data`.
pub(super) fn read_space(config: &[u8], offset: usize, data: &mut [u8]) {
    let part = config.get(offset..).unwrap_or_default();
    let length = part.len().min(data.len());
    data[..length].copy_from_slice(&part[..length]);
}

/// The error of a device for a request that breaks the rules.
pub(super) fn refuse<T>() -> Result<T> {
    bail!("the driver broke the rules of this device")
}
