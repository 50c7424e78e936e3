//! `pod.json`: the resolved pod. Everything is decided: a field that is absent means "none", never "default".
//!
//! Units stand in the field names. Paths inside an app are as the image or the user gave them and are resolved inside the
//! app's root by stage2; paths on the host are absolute and were resolved by stage0.

use crate::feature::Feature;
use crate::json::Version;
use crate::kernel::{Capability, Resource};
use crate::name::{AppName, PodName, PodUuid, VolumeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// One pod, written once by stage0 before the pod leaves `prepare`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Always [`crate::VERSION`].
    pub version: Version,
    /// Identity, and name of the pod directory.
    pub uuid: PodUuid,
    /// The name the user gave, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PodName>,
    /// Seconds since the epoch.
    pub created_unix_secs: u64,
    /// The host name inside the pod.
    pub hostname: String,
    /// In the order of the command line; at least one, at most [`crate::APPS_MAX`].
    pub apps: Vec<App>,
    /// What apps mount by name.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Which network the pod is in.
    pub network: Network,
    /// Content of `/etc/hosts` in every app; absent: the image's own file stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,
    /// Content of `/etc/resolv.conf` in every app; absent: the image's own file stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
    /// System V and POSIX IPC: the pod's own or the host's.
    pub ipc: Ipc,
    /// The pod's user namespace; absent: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_users: Option<IdRange>,
    /// Parts of [`crate::features::BASELINE`] that the user gave up, because the stage1 does not declare them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub waived: BTreeSet<Feature>,
    /// Namespaced kernel parameters, `net.ipv4.ip_forward` → `1`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Limits over all apps together.
    #[serde(default)]
    pub limits: Limits,
    /// For stage1-kvm; other stages ignore it. Absent: sized from the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Free text of users, shown by `pod status`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Overrides for a microVM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// `auto`, `builtin` or `qemu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// Guest kernel: ELF vmlinux or bzImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Appended to the kernel command line.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Guest memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Show the guest's serial console on stderr.
    #[serde(default)]
    pub debug: bool,
}

/// One app: a root file system, a program, and its confinement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Unique in the pod.
    pub name: AppName,
    /// Where the root came from; for people and for `pod list`, not for decisions of a stage1.
    pub image: Image,
    /// What the root is made of.
    pub root: Root,
    /// argv; the first is a path, or a name looked up in the app's `PATH` inside the root.
    pub exec: Vec<String>,
    /// A name, a number, or an absolute path whose owner is meant; resolved by stage2 in the app's root.
    pub user: String,
    /// As `user`; absent: the primary group of the user, and its supplementary groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Added to the groups that the image's `/etc/group` gives.
    #[serde(default)]
    pub supplementary_gids: Vec<u32>,
    /// Created 0755 if missing.
    pub working_directory: PathBuf,
    /// Complete, in order, without duplicates. stage2 adds `HOME` from the image's `/etc/passwd` where it is absent.
    pub environment: Vec<(String, String)>,
    /// Mounts of volumes, parents before children.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Fresh tmpfs mounts.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Device nodes beside the standard ones (null zero full random urandom tty console ptmx).
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Hidden: a directory under an empty read-only tmpfs, a file under `/dev/null`. Missing ones are skipped.
    #[serde(default)]
    pub masked_paths: Vec<PathBuf>,
    /// Remounted read-only. Missing ones are skipped.
    #[serde(default)]
    pub read_only_paths: Vec<PathBuf>,
    /// The bounding set; also permitted and effective when the user is root. Inheritable and ambient are empty.
    pub capabilities: Vec<Capability>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// What a security module of the kernel confines the app by; absent: as what started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// setrlimit(2).
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Limits of this app's cgroup.
    #[serde(default)]
    pub limits: Limits,
    /// `/proc/PID/oom_score_adj`; absent: inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What happens when the app ends.
    pub restart: Restart,
    /// How the app is asked to end.
    pub stop: Stop,
    /// Where the standard streams go.
    pub stdio: Stdio,
    /// sd_notify: the app gets `NOTIFY_SOCKET`, and its `READY=1` is the pod's.
    #[serde(default)]
    pub notify: bool,
    /// Free text of users.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// The image an app was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// `sha256:…` of the image's manifest.
    pub id: String,
    /// `NAME` of the image, without version.
    pub name: String,
    /// Version or tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it was allowed to run.
    pub trust: Trust,
}

/// How the image's trust was established for this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Trust {
    /// Signed by these keys (key ids), as the rule for this prefix asks.
    Signature {
        /// The prefix of the rule.
        prefix: String,
        /// Key ids that counted.
        keys: Vec<String>,
        /// What the image asked for beyond the defaults and the rule allows, in the rule's words. A prepared pod is refused
        /// when the rule does not allow it any more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        granted: Vec<String>,
    },
    /// The user named the image by its digest.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Digest,
    /// `--insecure-options=image`.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Insecure,
}

/// What an app's root is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Unpacked layers in the store, lowest first: absolute paths of directories that nobody writes to.
    pub layers: Vec<PathBuf>,
    /// One read-only EROFS image of all layers, for a stage1 that wants `block`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<PathBuf>,
    /// No upper layer: the app cannot write to its root.
    #[serde(default)]
    pub read_only: bool,
}

/// A thing that apps mount by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Unique in the pod.
    pub name: VolumeName,
    /// Where its content is.
    pub source: VolumeSource,
}

/// Where a volume's content is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VolumeSource {
    /// A file or directory of the host.
    Host {
        /// Absolute, symlinks resolved by stage0.
        source: PathBuf,
        /// Enforced by stage1 on the host's side.
        read_only: bool,
        /// With the mounts below it.
        recursive: bool,
    },
    /// A directory of the pod, shared by its apps, that goes with the pod. It lies in the pod directory under
    /// [`crate::dir::VOLUMES`], so that stage1 does not choose where data goes.
    Empty {
        /// Permission bits.
        mode: u32,
        /// Owner inside the pod.
        uid: u32,
        /// Group inside the pod.
        gid: u32,
    },
}

/// One volume in one app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// A volume of the pod.
    pub volume: VolumeName,
    /// Absolute path inside the app; missing directories are created 0755.
    pub target: PathBuf,
    /// Read-only for this app.
    pub read_only: bool,
    /// Fill an empty volume with what the image has at `target` (what Docker does), once.
    #[serde(default)]
    pub populate: bool,
}

/// A tmpfs in an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// Absolute path inside the app.
    pub target: PathBuf,
    /// Size limit.
    pub size_bytes: u64,
    /// Permission bits of its root.
    pub mode: u32,
}

/// A device node in an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Absolute path inside the app.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made by mknod.
    pub mknod: bool,
    /// Permission bits of the node.
    pub mode: u32,
}

/// The two kinds of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// `c`
    Character,
    /// `b`
    Block,
}

/// The pod's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// The host's network namespace; fd 4 is absent.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Host,
    /// Loopback only. Without `--private-users` and without fd 4 a stage1 makes the namespace itself, which is the
    /// fast path: nothing in it has to outlive the pod.
    #[serde(deserialize_with = "crate::json::no_fields")]
    None,
    /// The namespace on fd 4, configured by stage0.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Joined,
}

/// Whose IPC objects the pod sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Ipc {
    /// The pod's own.
    Private,
    /// The host's.
    Host,
}

/// Ids `0..count` of the pod are `first..first + count` of the host, for users and groups alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First host id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Limits of a cgroup. Absent: unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `memory.max`, and no swap beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a CPU: `cpu.max` over a period of 100 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// The v1 `cpu.shares` scale, 2 to 262144; converted to `cpu.weight` on v2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// `pids.max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// `io.max`, v2 only.
    #[serde(default)]
    pub io: Vec<IoLimit>,
}

/// Throttling of one block device; see `io.max` in the kernel's cgroup-v2 document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IoLimit {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_sec: Option<u64>,
    /// Bytes written per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_sec: Option<u64>,
    /// Reads per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_operations_per_sec: Option<u64>,
    /// Writes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_operations_per_sec: Option<u64>,
}

/// System call filter of an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Seccomp {
    /// No filter.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Unconfined,
    /// The profile `default-1`, described in the README: argument rules, EPERM, and wider for some capabilities.
    #[serde(rename = "default-1")]
    #[serde(deserialize_with = "crate::json::no_fields")]
    Default1,
    /// Only these system calls; names were expanded from groups and checked by stage0.
    Retain {
        /// Kernel names.
        syscalls: Vec<String>,
        /// Returned for the others; absent: the app is killed by SIGSYS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<i32>,
        /// What `default-1` refuses stays refused, its argument rules included.
        #[serde(default, skip_serializing_if = "is_false")]
        within_default: bool,
    },
    /// All system calls but these.
    Remove {
        /// Kernel names.
        syscalls: Vec<String>,
        /// Returned for these; absent: the app is killed by SIGSYS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<i32>,
        /// What `default-1` refuses stays refused, its argument rules included.
        #[serde(default, skip_serializing_if = "is_false")]
        within_default: bool,
    },
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What is written to `/proc/self/attr` before execve(2). A start fails if the kernel refuses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "module", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Label {
    /// AppArmor.
    Apparmor {
        /// Name of a loaded profile.
        profile: String,
    },
    /// SELinux.
    Selinux {
        /// Context of the app's processes.
        process: String,
        /// Context of the app's root, of every tmpfs and devpts made for it, and of empty volumes. Other file systems keep their own.
        files: String,
    },
}

/// One resource limit, setrlimit(2). Absent: infinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Which.
    pub resource: Resource,
    /// Soft limit in the unit of setrlimit(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u64>,
    /// Hard limit in the unit of setrlimit(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u64>,
}

/// What happens when an app ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// How often at most; 0: without end.
    #[serde(default)]
    pub attempts_max: u32,
    /// Pause before each start.
    #[serde(default)]
    pub delay_millis: u64,
}

/// When an app is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never: its failure ends the pod.
    No,
    /// When it ended by a signal or a code other than 0.
    OnFailure,
    /// Always, until the pod is stopped.
    Always,
}

/// How an app is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Signal number.
    pub signal: i32,
    /// SIGKILL follows after this.
    pub grace_millis: u64,
}

/// Standard streams of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "mode", deny_unknown_fields)]
pub enum Stdio {
    /// stdin as said, stdout and stderr are the caller's.
    Inherit {
        /// The caller's stdin; otherwise `/dev/null`.
        stdin: bool,
    },
    /// A terminal of the app's own, joined to the caller's.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Tty,
    /// `/dev/null` for all three.
    #[serde(deserialize_with = "crate::json::no_fields")]
    Null,
}
