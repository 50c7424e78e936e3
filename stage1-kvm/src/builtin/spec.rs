//! What the supervisor tells the hypervisor process: numbers, and fds that it opened. No path: the process has no file system.

use serde::{Deserialize, Serialize};

/// The machine, as JSON on the process's stdin. Fds are numbers of open fds, each named once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    /// The process that must outlive this one.
    pub(super) supervisor: u32,
    /// Guest memory.
    pub(super) memory_bytes: u64,
    /// Virtual CPUs.
    pub(super) cpus: u8,
    /// Kernel command line.
    pub(super) command_line: String,
    /// Show the serial console on stderr.
    pub(super) serial: bool,
    /// fd: why the machine ended, if not as it should.
    pub(super) report: i32,
    /// fd: `/dev/kvm`.
    pub(super) kvm: i32,
    /// fd: ELF or bzImage.
    pub(super) kernel: i32,
    /// fd: cpio archive.
    pub(super) initramfs: i32,
    /// fd: the supervisor's channel.
    pub(super) channel: i32,
    /// Disks, in the guest's order.
    pub(super) disks: Vec<Disk>,
    /// virtio-fs shares.
    pub(super) shares: Vec<Share>,
    /// Network cards.
    pub(super) cards: Vec<Card>,
}

/// A raw disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    /// fd, opened read-only if the disk is.
    pub(super) file: i32,
    /// The guest may not write.
    pub(super) read_only: bool,
    /// How the guest knows it.
    pub(super) serial: String,
}

/// A share served by a virtiofsd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    /// fd: connected vhost-user socket.
    pub(super) socket: i32,
    /// How the guest knows it.
    pub(super) tag: String,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card {
    /// fd: the queue of a tap device, non-blocking.
    pub(super) tap: i32,
    /// Its hardware address.
    pub(super) address: [u8; 6],
}
