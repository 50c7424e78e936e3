//! What a guest's PID 1 is told beside `pod.json`: which disk is which root, which share is which volume. stage1-kvm puts
//! both files into the initramfs, so that nothing has to be asked for at boot.

use crate::json::Version;
use crate::name::{AppName, VolumeName};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// This file, in the initramfs.
pub const GUEST: &str = "/guest.json";
/// `pod.json`, in the initramfs.
pub const POD: &str = "/pod.json";
/// The name of the virtio-console port that carries [`crate::channel`]; `/sys/class/virtio-ports/*/name` in the guest.
pub const CHANNEL_PORT: &str = "pod.channel";

/// `guest.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Addresses and routes of the guest's network card, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

/// The root of one app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Whose.
    pub app: AppName,
    /// Serial of the virtio-blk disk that holds its EROFS image.
    pub disk: String,
}

/// A volume of the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Which.
    pub name: VolumeName,
    /// Where its content is.
    pub source: VolumeSource,
}

/// Where a volume's content is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Hardware address of the card, six bytes.
    pub hardware_address: [u8; 6],
    /// Largest packet.
    pub mtu: u32,
    /// `ADDRESS/PREFIX`.
    pub addresses: Vec<String>,
    /// Routers of the default routes.
    pub gateways: Vec<String>,
}
