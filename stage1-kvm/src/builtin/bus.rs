//! From an address that the guest touched to the device that answers.

use super::memory::{DEVICE_BYTES, DEVICES};
use super::mmio::Transport;
use super::port::Ports;
use std::sync::Mutex;

/// Everything a CPU's exit can reach.
pub(super) struct Bus {
    /// I/O ports.
    pub(super) ports: Ports,
    /// virtio-mmio devices, one a page from [`DEVICES`] on.
    pub(super) devices: Vec<Mutex<Transport>>,
}

impl Bus {
    /// Memory that nobody answers for reads as ones.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address)
            && let Ok(mut device) = device.lock()
        {
            device.read(offset, data);
        }
    }

    /// Writes to nobody are lost.
    pub(super) fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address)
            && let Ok(mut device) = device.lock()
        {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<Transport>, u64)> {
        let offset = address.checked_sub(DEVICES)?;
        let device = self.devices.get(usize::try_from(offset / DEVICE_BYTES).ok()?)?;
        Some((device, offset % DEVICE_BYTES))
    }
}
