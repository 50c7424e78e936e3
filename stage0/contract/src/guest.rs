//! What a guest's PID 1 is told beside `pod.json`: which disk is which root, which share is which volume, what its network
//! cards are. stage1-kvm puts both files into the initramfs, so that nothing has to be asked for at boot.

use crate::json::Version;
use crate::name::{AppName, VolumeName};
use crate::pod::Rlimit;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// This file, in the initramfs.
pub const GUEST: &str = "/guest.json";
/// `pod.json`, in the initramfs.
pub const POD: &str = "/pod.json";
/// The name of the virtio-console port that carries [`crate::channel`]; `/sys/class/virtio-ports/*/name` in the guest.
pub const CHANNEL_PORT: &str = "pod.channel";
/// Interfaces of one guest.
pub const INTERFACES_MAX: usize = 4;

/// `guest.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Always [`crate::VERSION`].
    pub version: Version,
    /// Kernel modules in the initramfs, in the order of loading. Empty for a kernel that has everything built in.
    #[serde(default)]
    pub modules: Vec<PathBuf>,
    /// The root of each app.
    pub roots: Vec<Root>,
    /// Where each volume's content is.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Nanoseconds since the epoch when the guest was started: its clock, if it has no better one.
    #[serde(default)]
    pub started_unix_nanos: u64,
    /// What the guest has beside loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What the pod's processes begin with, as they would on the host: the limits of whoever runs the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
}

/// The root of one app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Whose.
    pub app: AppName,
    /// Serial of the virtio-blk disk that holds its EROFS image.
    pub disk: String,
}

/// A volume of the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Which.
    pub name: VolumeName,
    /// Where its content is.
    pub source: VolumeSource,
}

/// Where a volume's content is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VolumeSource {
    /// A virtio-fs share.
    Share {
        /// Its tag.
        tag: String,
        /// The file in the share that is the volume; absent: the share's root directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// The host refuses writes.
        read_only: bool,
    },
    /// Made by the guest in its memory, with the mode and owner that `pod.json` says.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Memory,
}

/// The guest's network, as the pod's network namespace was when the guest started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// At most [`INTERFACES_MAX`]; in the guest each is a network card, told by its hardware address.
    pub interfaces: Vec<Interface>,
    /// Routes of the main table, in the order in which they can be made.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Permanent neighbours: addresses that nobody would answer for.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
}

/// One interface that is not loopback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// At most 15 bytes.
    pub name: String,
    /// Six bytes.
    pub hardware_address: [u8; 6],
    /// Largest packet.
    pub mtu_bytes: u32,
    /// In the order of the namespace, so that the first of a network stays its first.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Our own.
    pub ip: IpAddr,
    /// The other end of a point-to-point link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Bits of the network.
    pub prefix_bits: u8,
    /// To all of the network; IPv4 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Ipv4Addr>,
    /// rtnetlink(7): 0 is the world, 253 the link.
    pub scope: u8,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// To where; all zeros with no prefix bits is the default route.
    pub destination: IpAddr,
    /// Bits of the network.
    pub prefix_bits: u8,
    /// Name of an interface; absent for routes that lead nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The next router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The address that packets on this route are sent from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Priority; 0: the kernel's default.
    #[serde(default)]
    pub metric: u32,
    /// rtnetlink(7): 0 is the world, 253 the link.
    pub scope: u8,
    /// rtnetlink(7): 1 is unicast, 6 blackhole, 7 unreachable, 8 prohibit.
    pub kind: u8,
    /// The gateway is taken to be on the link, whatever the addresses say.
    #[serde(default)]
    pub on_link: bool,
}

/// A permanent entry of the table of neighbours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Name of an interface.
    pub interface: String,
    /// Whose.
    pub ip: IpAddr,
    /// Where it is.
    pub hardware_address: [u8; 6],
}
