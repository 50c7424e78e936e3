//! The pod root: what a stage1 lays out before it starts stage2, the same in namespaces and in a guest.
//!
//! stage2's root directory is a small tmpfs (or the initramfs) that holds [`APPS`] and [`VOLUMES`]. In namespaces it is
//! executed with [`POD_FD`] and [`CHANNEL_FD`] open and nothing else beyond the standard streams.

/// `apps/NAME/rootfs`: the app's root, mounted and private. It is writable here also when the app's root is read-only,
/// because stage2 makes mount points in it and then makes it read-only itself; if it is not, mount points must exist.
pub const APPS: &str = "/apps";
/// Below `apps/NAME`.
pub const ROOTFS: &str = "rootfs";
/// `volumes/NAME`: what a volume holds, mounted, read-only if the volume is.
pub const VOLUMES: &str = "/volumes";
/// `pod.json`, open for reading.
pub const POD_FD: i32 = 3;
/// The channel to stage1.
pub const CHANNEL_FD: i32 = 4;

/// For what the kernel refuses to make inside a user namespace, so that stage2 can bind it: with `private_users`, fresh
/// `/proc` and `/sys` mounts without anything mounted over them (the kernel makes new ones only where full ones are
/// visible), and below `/dev` the host's standard nodes and the apps' `devices`, each under the path it has in the app.
pub const PROC: &str = "/proc";
/// See [`PROC`].
pub const SYS: &str = "/sys";
/// See [`PROC`].
pub const DEV: &str = "/dev";
/// The shared memory of the pod: a tmpfs that all apps see as `/dev/shm`. With `ipc: host` a stage1 must mount the host's
/// here; otherwise stage2 makes it if it is missing.
pub const SHM: &str = "/shm";
