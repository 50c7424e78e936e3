//! The pod root: what a stage1 lays out before it starts stage2, the same in namespaces and in a guest.
//!
//! stage2's root directory is a small tmpfs (or the initramfs) that holds [`APPS`] and [`VOLUMES`]. In namespaces it is
//! executed with [`POD_FD`] and [`CHANNEL_FD`] open and nothing else beyond the standard streams.

/// `apps/NAME/rootfs`: the app's root, mounted, writable unless the app's root is read-only.
pub const APPS: &str = "/apps";
/// Below `apps/NAME`.
pub const ROOTFS: &str = "rootfs";
/// `volumes/NAME`: what a volume holds, mounted, read-only if the volume is.
pub const VOLUMES: &str = "/volumes";
/// `pod.json`, open for reading.
pub const POD_FD: i32 = 3;
/// The channel to stage1.
pub const CHANNEL_FD: i32 = 4;
