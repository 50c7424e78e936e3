//! qemu as the hypervisor: the same devices and the same channel as the built-in one, with KVM where it can run a guest and
//! in software where not. The supervisor opens every file; qemu gets fds, and runs jailed (`qemu/jail.rs`).

mod arguments;
mod clock;
pub(crate) mod jail;
mod model;
pub(crate) mod share;

use crate::machine::{Machine, VolumeServer};
use crate::plan::VmPlan;
use crate::sys::die_with_parent;
use anyhow::{Context, Result};
use arguments::Files;
use contract::text::Advised;
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where distributions put it.
const PROGRAMS: [&str; 2] = ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"];
/// How long a guest may take to its first word: in software, on a machine that is busy with others of its kind.
const BOOT_SECS_MAX_EMULATED: u64 = 120;
const BOOT_SECS_MAX: u64 = 30;

/// How the guest's instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// /dev/kvm.
    Kvm,
    /// qemu's translator.
    Software {
        /// Rate of the time stamp counter, which the guest reads as the host has it; none where it is not constant.
        tsc_khz: Option<u64>,
    },
}

/// The program, or what to install.
pub(crate) fn program() -> Result<PathBuf> {
    let found = PROGRAMS.iter().map(Path::new).find(|path| path.exists());
    found.map(Path::to_owned).ok_or_else(|| {
        Advised::new("qemu is not installed", "install `qemu-system-x86` (Debian, Ubuntu) or `qemu-kvm` (Fedora)")
            .into()
    })
}

/// Starts the machine in qemu.
pub(crate) fn start(plan: &VmPlan, initramfs: File, taps: Vec<OwnedFd>, accelerator: Accelerator) -> Result<Machine> {
    let program = program()?;
    let (channel, channel_inside) = UnixStream::pair().context("make the channel to the guest")?;
    let (report, report_inside) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
    let (servers, shares): (Vec<VolumeServer>, Vec<OwnedFd>) =
        share::start(&plan.shares, &report_inside)?.into_iter().unzip();
    let disks = plan.disks.iter().map(open_disk).collect::<Result<Vec<OwnedFd>>>()?;
    let files = Files {
        kernel: open_kernel(&plan.kernel.path)?,
        initramfs: initramfs.into(),
        channel: channel_inside.into(),
        console: report_inside.try_clone().context("clone a pipe")?,
        disks,
        shares,
        taps,
    };
    let arguments = arguments::arguments(plan, accelerator, &files)?;
    let own = std::env::current_exe().context("find this program's own file")?;
    let mut command = Command::new(own);
    command.arg("qemu").arg(std::process::id().to_string()).arg(accelerator.word()).arg(program).args(arguments);
    // A process group of its own: Ctrl-C at the terminal is for the supervisor, which stops the pod in order.
    command.env_clear().process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(report_inside);
    for fd in files.all() {
        // The only other child, virtiofsd, was started before; what inherits these is qemu alone.
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).context("pass a file to qemu")?;
    }
    let process = die_with_parent(&mut command).spawn().context("start qemu")?;
    let boot_secs_max = match accelerator {
        Accelerator::Kvm => BOOT_SECS_MAX,
        Accelerator::Software { .. } => BOOT_SECS_MAX_EMULATED,
    };
    Ok(Machine { process, servers, channel, report, boot_secs_max })
}

impl Accelerator {
    /// The translator, with what it must be told of this host.
    pub(crate) fn software() -> Self {
        Self::Software { tsc_khz: clock::tsc_khz() }
    }

    /// As the jail is told it.
    fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Software { .. } => "tcg",
        }
    }
}

/// A disk is a raw file, opened as it may be used, so the guest cannot write where qemu has no fd to write with.
fn open_disk(disk: &crate::plan::Disk) -> Result<OwnedFd> {
    let file = File::options().read(true).write(!disk.read_only).open(&disk.path);
    Ok(file.with_context(|| format!("open the disk `{}`", disk.path.display()))?.into())
}

/// qemu opens the kernel by name, as a user who may not read everything; one that is not for everybody is copied.
fn open_kernel(path: &Path) -> Result<OwnedFd> {
    let context = || format!("open the kernel `{}`", path.display());
    // Non-blocking: what is no file at all must not make us wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).with_context(context)?);
    let stat = rustix::fs::fstat(&file).with_context(context)?;
    anyhow::ensure!(
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file(),
        "the kernel `{}` is not a file",
        path.display()
    );
    let mut head = [0; 0x206];
    // A shorter file is no kernel either.
    let read = file.read_exact_at(&mut head, 0).is_ok();
    // An ELF file, or the header of arch/x86/boot/header.S.
    let known = head.starts_with(b"\x7fELF") || head.ends_with(b"HdrS");
    anyhow::ensure!(read && known, "`{}` is not a kernel", path.display());
    if stat.st_mode & 0o004 != 0 {
        return Ok(file.into());
    }
    let memory = rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).context("copy the kernel")?;
    std::io::copy(&mut file, &mut File::from(memory.try_clone()?)).context("copy the kernel")?;
    Ok(memory)
}

impl Files {
    fn all(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        let fixed = [&self.kernel, &self.initramfs, &self.channel, &self.console];
        fixed.into_iter().chain(&self.disks).chain(&self.shares).chain(&self.taps).map(AsFd::as_fd)
    }
}
