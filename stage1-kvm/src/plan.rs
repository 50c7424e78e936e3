//! From `pod.json` to the machine that runs it. Pure: what exists on the host was found before.

use anyhow::{Result, bail};
use contract::guest;
use contract::kernel::Resource;
use contract::name::AppName;
use contract::pod::{Pod, Rlimit, VolumeSource};
use rustix::process;
use std::path::PathBuf;

/// Guest memory when nothing limits the apps. The host backs only what the guest touches.
const MEMORY_DEFAULT_BYTES: u64 = 512 << 20;
/// What kernel, initramfs and stage2 need beside the apps.
const MEMORY_OVERHEAD_BYTES: u64 = 64 << 20;
/// Below this the kernel does not reach its init.
const MEMORY_MIN_BYTES: u64 = 48 << 20;
/// Beyond this the guest's addresses do not fit the table of ranges that both hypervisors offer.
const MEMORY_MAX_BYTES: u64 = 1 << 40;
/// As many as the minimal kernel is built for.
const CPUS_MAX: u32 = 8;

/// A machine, hypervisor still open.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VmPlan {
    /// `auto`, `builtin` or `qemu`.
    pub(crate) hypervisor: Hypervisor,
    /// Guest memory, a multiple of 1 MiB.
    pub(crate) memory_bytes: u64,
    /// Virtual CPUs.
    pub(crate) cpus: u32,
    /// What boots.
    pub(crate) kernel: Kernel,
    /// Kernel command line without what a hypervisor adds (its console, its devices).
    pub(crate) command_line: String,
    /// In the order of the guest's device names; read-only unless said.
    pub(crate) disks: Vec<Disk>,
    /// Directories of the host.
    pub(crate) shares: Vec<Share>,
    /// What stage2 in the guest is told.
    pub(crate) guest: guest::Guest,
    /// The guest's serial console goes to stderr.
    pub(crate) debug: bool,
}

/// Which hypervisor the pod asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hypervisor {
    /// The first that works here.
    Auto,
    /// The one in this program.
    Builtin,
    /// qemu-system.
    Qemu,
}

/// A guest kernel, found on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// ELF vmlinux (with a PVH note) or bzImage.
    pub(crate) path: PathBuf,
    /// Module files to load, in order; empty when everything is built in.
    pub(crate) modules: Vec<PathBuf>,
}

/// A raw disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// At most 20 bytes; how the guest knows it.
    pub(crate) serial: String,
    /// Raw image.
    pub(crate) path: PathBuf,
    /// The guest cannot write; the file is opened so.
    pub(crate) read_only: bool,
    /// The app whose root it is.
    pub(crate) app: Option<AppName>,
}

/// A directory of the host that the guest mounts by virtio-fs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// At most 36 bytes; how the guest knows it.
    pub(crate) tag: String,
    /// Absolute path.
    pub(crate) source: PathBuf,
    /// Enforced on the host.
    pub(crate) read_only: bool,
    /// The source is a file, and the share a directory with that file under this name.
    pub(crate) file: Option<String>,
}

/// Decides on memory, CPUs, command line and what the guest is told.
pub(crate) fn plan(
    pod: &Pod,
    kernel: Kernel,
    disks: Vec<Disk>,
    shares: Vec<Share>,
    network: Option<guest::Network>,
) -> Result<VmPlan> {
    let machine = pod.machine.clone().unwrap_or_default();
    let hypervisor = match machine.hypervisor.as_deref() {
        None | Some("auto") => Hypervisor::Auto,
        Some("builtin") => Hypervisor::Builtin,
        Some("qemu") => Hypervisor::Qemu,
        Some(other) => bail!("`{other}` is not a hypervisor; `auto`, `builtin` and `qemu` are"),
    };
    let guest = guest::Guest {
        modules: (0..kernel.modules.len()).map(module_path).collect(),
        roots: disks.iter().filter_map(root).collect(),
        volumes: volumes(pod, &shares),
        network,
        rlimits: rlimits(),
        ..guest::Guest::default()
    };
    let cpus = cpus(pod);
    Ok(VmPlan {
        hypervisor,
        memory_bytes: memory_bytes(pod)?,
        cpus,
        command_line: command_line(cpus, machine.debug, &machine.kernel_arguments)?,
        kernel,
        disks,
        shares,
        guest,
        debug: machine.debug,
    })
}

/// Where the initramfs has the module of this index.
pub(crate) fn module_path(index: usize) -> PathBuf {
    PathBuf::from(format!("/modules/{index:03}.ko"))
}

impl VmPlan {
    /// The hardware addresses of the guest's network cards.
    pub(crate) fn cards(&self) -> impl Iterator<Item = [u8; 6]> {
        let interfaces = self.guest.network.iter().flat_map(|network| &network.interfaces);
        interfaces.map(|interface| interface.hardware_address)
    }
}

fn root(disk: &Disk) -> Option<guest::Root> {
    disk.app.as_ref().map(|app| guest::Root { app: app.clone(), disk: disk.serial.clone() })
}

/// Host volumes come through the share that bears their name, empty ones live in the guest's memory and die with it.
fn volumes(pod: &Pod, shares: &[Share]) -> Vec<guest::Volume> {
    let file = |tag: &str| shares.iter().find(|share| share.tag == tag).and_then(|share| share.file.clone());
    pod.volumes
        .iter()
        .map(|volume| guest::Volume {
            name: volume.name.clone(),
            source: match &volume.source {
                VolumeSource::Host { read_only, .. } => guest::VolumeSource::Share {
                    tag: share_tag(volume.name.as_str()),
                    file: file(&share_tag(volume.name.as_str())),
                    read_only: *read_only,
                },
                VolumeSource::Empty { .. } => guest::VolumeSource::Memory,
            },
        })
        .collect()
}

/// The tag of a volume's share. virtio-fs has 36 bytes for it and a volume name may be longer, so the tail is kept apart
/// by a checksum of the whole.
pub(crate) fn share_tag(name: &str) -> String {
    if name.len() <= 36 {
        return name.to_owned();
    }
    // FNV-1a: names are told apart here, not defended against; a clash is refused by the guest as a missing share.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}-{hash:016x}", &name[..19])
}

fn memory_bytes(pod: &Pod) -> Result<u64> {
    let asked = pod.machine.as_ref().and_then(|machine| machine.memory_bytes);
    let of_apps = || -> Option<u64> {
        pod.apps.iter().try_fold(0_u64, |sum, app| Some(sum.saturating_add(app.limits.memory_bytes?)))
    };
    let bytes = match asked.or_else(|| {
        let limit = pod.limits.memory_bytes.or_else(of_apps)?;
        Some(limit.saturating_add(MEMORY_OVERHEAD_BYTES))
    }) {
        Some(bytes) => bytes,
        None => MEMORY_DEFAULT_BYTES,
    };
    if bytes < MEMORY_MIN_BYTES {
        bail!("{} MiB of guest memory is too little; a kernel needs {} MiB", bytes >> 20, MEMORY_MIN_BYTES >> 20);
    }
    if bytes > MEMORY_MAX_BYTES {
        bail!("{} GiB of guest memory is more than {} GiB", bytes >> 30, MEMORY_MAX_BYTES >> 30);
    }
    // Whole large pages, so that what lies above the hole for devices is aligned as what lies below.
    Ok(bytes.next_multiple_of(2 << 20))
}

/// One CPU serves a pod without a limit: bringing up another costs every start, and most pods wait for I/O.
fn cpus(pod: &Pod) -> u32 {
    if let Some(cpus) = pod.machine.as_ref().and_then(|machine| machine.cpus) {
        return cpus.clamp(1, CPUS_MAX);
    }
    let millis = pod
        .limits
        .cpu_millis
        .or_else(|| pod.apps.iter().try_fold(0_u64, |sum, app| Some(sum.saturating_add(app.limits.cpu_millis?))));
    let cpus = millis.unwrap_or(1000).div_ceil(1000).clamp(1, u64::from(CPUS_MAX));
    u32::try_from(cpus).unwrap_or(CPUS_MAX)
}

/// This process's own limits, which are the caller's. Left out is what a kernel sets by the size of its machine.
fn rlimits() -> Vec<Rlimit> {
    let limits = [
        (Resource::Cpu, process::Resource::Cpu),
        (Resource::Fsize, process::Resource::Fsize),
        (Resource::Data, process::Resource::Data),
        (Resource::Stack, process::Resource::Stack),
        (Resource::Core, process::Resource::Core),
        (Resource::Nproc, process::Resource::Nproc),
        (Resource::Nofile, process::Resource::Nofile),
        (Resource::Memlock, process::Resource::Memlock),
        (Resource::As, process::Resource::As),
    ];
    let limit = |(resource, own)| {
        let process::Rlimit { current, maximum } = process::getrlimit(own);
        Rlimit { resource, soft: current, hard: maximum }
    };
    limits.map(limit).to_vec()
}

/// `panic=-1`: a dead kernel resets at once instead of sitting there. `quiet`: printing costs more than booting. `noreplace-smp`:
/// the kernel of a single CPU would take its lock prefixes away one by one, each through page tables of their own.
fn command_line(cpus: u32, debug: bool, extra: &[String]) -> Result<String> {
    let mut words = vec!["rdinit=/init", "panic=-1", "reboot=k", "random.trust_cpu=on"];
    words.extend((cpus == 1).then_some("noreplace-smp"));
    words.push(if debug { "console=ttyS0" } else { "quiet" });
    for word in extra {
        if word.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            bail!("kernel argument `{}` has a control character", word.escape_default());
        }
        words.push(word);
    }
    let line = words.join(" ");
    // 2048 is the kernel's COMMAND_LINE_SIZE on x86; what a hypervisor adds must fit too.
    if line.len() > 1024 {
        bail!("the kernel command line has {} bytes; 1024 fit", line.len());
    }
    Ok(line)
}
