//! Flags of a whole pod, for `run` and `prepare`.

use crate::values::limit::{self, DeviceRate};
use crate::values::mount::{self, MountFlag};
use crate::values::volume::{self, VolumeFlag};
use crate::values::{key_value, number, process};
use contract::name::PodName;
use std::path::PathBuf;

/// What is said before the first image, or anywhere, about the pod.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Pod options")]
pub(crate) struct PodFlags {
    /// Name of the pod, unique among pods that live (after an image: name of the app)
    #[arg(long)]
    pub(crate) name: Option<PodName>,
    /// Isolation: `namespaces`, `kvm`, the path of a stage1.json, or an image that holds one, verified like any
    #[arg(long, value_name = "STAGE1", default_value = "namespaces")]
    pub(crate) stage1: String,
    /// Network: `none` (loopback only), `host`, or `ns:PATH` (a network namespace that you made)
    #[arg(long, value_name = "NET", default_value = "none", visible_alias = "network")]
    pub(crate) net: String,
    /// Write the pod's UUID to this file before anything else happens
    #[arg(long, value_name = "FILE", visible_alias = "cidfile", value_hint = clap::ValueHint::FilePath)]
    pub(crate) uuid_file_save: Option<PathBuf>,
    /// When to ask where an image came from: new, update or never
    #[arg(long, value_name = "POLICY", default_value = "new", value_enum, visible_alias = "pull")]
    pub(crate) pull_policy: Pull,
    /// Take an image though it is older than the last accepted one of its name and tag, and go on from there
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    /// For scripts that pass it: nothing but the UUID goes to stdout anyway
    #[arg(long, hide = true)]
    pub(crate) quiet: bool,
    /// Give the app the caller's standard input, on a terminal of its own if the caller has one; one app only
    #[arg(long, short = 'i')]
    pub(crate) interactive: bool,
    /// Volume: `NAME,kind=host,source=PATH[,readOnly=true]`, `NAME,kind=empty[,mode=0755]` or `/HOST:/TARGET[:ro]`
    #[arg(long, short = 'v', value_name = "VOLUME", value_parser = volume::parse)]
    pub(crate) volume: Vec<VolumeFlag>,
    /// Mount for all apps (after an image: for that app): `volume=NAME,target=PATH[,readOnly=true]`
    #[arg(long, value_name = "MOUNT", value_parser = mount::parse)]
    pub(crate) mount: Vec<MountFlag>,
    /// Environment variable of all apps
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set_env: Vec<(String, String)>,
    /// File of KEY=VALUE lines for all apps
    #[arg(long, value_name = "FILE", visible_alias = "env-file", value_hint = clap::ValueHint::FilePath)]
    pub(crate) set_env_file: Vec<PathBuf>,
    /// Give all apps the caller's environment where they have nothing of their own
    #[arg(long)]
    pub(crate) inherit_env: bool,
    /// Host name (otherwise `pod-` and the start of the UUID)
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Name servers of /etc/resolv.conf, or `host` (a copy of the host's file) or `none` (the image's file)
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) dns: Vec<String>,
    /// Search domains of /etc/resolv.conf
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',')]
    pub(crate) dns_search: Vec<String>,
    /// Options of /etc/resolv.conf
    #[arg(long, value_name = "OPTION", value_delimiter = ',', visible_alias = "dns-option")]
    pub(crate) dns_opt: Vec<String>,
    /// Local domain of /etc/resolv.conf
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_domain: Option<String>,
    /// Entry of /etc/hosts, `IP=NAME` (or `NAME:IP`), or `host` (a copy of the host's file)
    #[arg(long, value_name = "ENTRY", value_delimiter = ',', visible_alias = "add-host")]
    pub(crate) hosts_entry: Vec<String>,
    /// System V and POSIX IPC: the pod's own or the host's
    #[arg(long, value_name = "IPC", default_value = "private", value_enum)]
    pub(crate) ipc: IpcFlag,
    /// Map the pod's users to a range of host users that nobody else has
    #[arg(long)]
    pub(crate) private_users: bool,
    /// Kernel parameter of the pod: net.*, fs.mqueue.*, System V IPC
    #[arg(long, value_name = "KEY=VALUE", value_parser = process::sysctl)]
    pub(crate) sysctl: Vec<(String, String)>,
    /// Free text, shown by `pod status` (after an image: of the app)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) annotation: Vec<(String, String)>,
    /// Limits of all apps together.
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    /// The microVM.
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
}

/// Limits: before the first image of the pod, after an image of its app.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Limits (before the first image: of the pod; after an image: of its app)")]
pub(crate) struct LimitFlags {
    /// Memory, without swap: `64M`, `1.5Gi`
    #[arg(long, short = 'm', value_name = "SIZE", value_parser = number::memory)]
    pub(crate) memory: Option<u64>,
    /// CPU time: `500m`, `0.5` or `2` CPUs
    #[arg(long, value_name = "CPUS", value_parser = number::cpu, visible_alias = "cpus")]
    pub(crate) cpu: Option<u64>,
    /// Weight against others when the CPU is busy, 2 to 262144 (1024 is usual)
    #[arg(long, value_name = "SHARES", value_parser = cpu_shares)]
    pub(crate) cpu_shares: Option<u64>,
    /// How many processes and threads
    #[arg(long, value_name = "COUNT", value_parser = pids, visible_alias = "pids-limit")]
    pub(crate) pids: Option<u64>,
    /// Bytes read per second from a device: `/dev/vda=10M` (cgroup v2)
    #[arg(long, value_name = "DEVICE=SIZE", value_parser = limit::device_bytes, visible_alias = "device-read-bps")]
    pub(crate) io_read_bps: Vec<DeviceRate>,
    /// Bytes written per second to a device (cgroup v2)
    #[arg(long, value_name = "DEVICE=SIZE", value_parser = limit::device_bytes, visible_alias = "device-write-bps")]
    pub(crate) io_write_bps: Vec<DeviceRate>,
    /// Reads per second from a device (cgroup v2)
    #[arg(long, value_name = "DEVICE=COUNT", value_parser = limit::device_operations, visible_alias = "device-read-iops")]
    pub(crate) io_read_iops: Vec<DeviceRate>,
    /// Writes per second to a device (cgroup v2)
    #[arg(long, value_name = "DEVICE=COUNT", value_parser = limit::device_operations, visible_alias = "device-write-iops")]
    pub(crate) io_write_iops: Vec<DeviceRate>,
}

/// What only a microVM reads.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "microVM options (--stage1=kvm)")]
pub(crate) struct MachineFlags {
    /// Guest kernel: ELF vmlinux or bzImage
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) kernel: Option<PathBuf>,
    /// Words added to the guest kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) kernel_args: Vec<String>,
    /// auto, builtin or qemu
    #[arg(long, value_name = "HYPERVISOR", value_parser = ["auto", "builtin", "qemu"])]
    pub(crate) hypervisor: Option<String>,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", value_parser = number::memory)]
    pub(crate) vm_memory: Option<u64>,
    /// CPUs of the guest
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub(crate) vm_cpus: Option<u32>,
}

/// When to look where an image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pull {
    /// Only when the store has it not.
    #[value(alias = "missing", alias = "ifnewer")]
    New,
    /// Always look whether it changed.
    #[value(alias = "always")]
    Update,
    /// Only the store.
    Never,
}

/// Whose IPC objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IpcFlag {
    /// The pod's own.
    #[value(alias = "auto")]
    Private,
    /// The host's (rkt's word is `parent`).
    #[value(alias = "parent")]
    Host,
}

fn cpu_shares(text: &str) -> Result<u64, String> {
    number::integer(text, 2..=262_144)
}

fn pids(text: &str) -> Result<u64, String> {
    number::integer(text, 1..=4_194_304)
}
