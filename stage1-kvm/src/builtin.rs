//! The built-in hypervisor. This file is the supervisor's side: it opens all that the machine needs and starts the hypervisor
//! process, which is this program again with nothing but those fds. What is below runs in that process.

mod acpi;
mod balloon;
mod block;
pub(crate) mod boot;
mod bus;
mod console;
mod cpu;
mod cpuid;
mod device;
#[cfg(test)]
mod driver;
mod entropy;
#[cfg(test)]
mod frames;
mod fs;
#[cfg(any(test, feature = "hostile"))]
pub(crate) mod hostile;
mod jail;
mod machine;
mod memory;
mod mmio;
mod net;
mod port;
pub(crate) mod probe;
#[cfg(test)]
mod requests;
mod spec;
mod sys;

use crate::machine::Machine;
use crate::plan::VmPlan;
use crate::qemu::share;
use anyhow::{Context, Result};
use contract::text::Advised;
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use spec::Spec;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

/// A guest on real virtualization boots in well under a second; a nested and emulated one in ten.
const BOOT_SECS_MAX: u64 = 60;

/// Starts the machine in a child process.
pub(crate) fn start(plan: &VmPlan, initramfs: File, taps: Vec<OwnedFd>) -> Result<Machine> {
    // Before anything is passed: a virtiofsd must not inherit what is the hypervisor's.
    let mut passed = Passed::default();
    let (channel, theirs) = UnixStream::pair().context("make the guest's channel")?;
    let (report, report_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make a pipe")?;
    let (servers, sockets): (Vec<_>, Vec<_>) = share::start(&plan.shares, &report_end)?.into_iter().unzip();
    let spec = Spec {
        supervisor: std::process::id(),
        memory_bytes: plan.memory_bytes,
        cpus: u8::try_from(plan.cpus).context("count the CPUs")?,
        command_line: command_line(plan),
        serial: plan.debug,
        report: passed.take(report_end)?,
        kvm: passed.take(open_kvm()?)?,
        kernel: passed.take(open(&plan.kernel.path, true).context("open the guest kernel")?)?,
        initramfs: passed.take(initramfs)?,
        channel: passed.take(theirs)?,
        disks: plan
            .disks
            .iter()
            .map(|disk| {
                let file = passed.take(open(&disk.path, disk.read_only)?)?;
                Ok(spec::Disk { file, read_only: disk.read_only, serial: disk.serial.clone() })
            })
            .collect::<Result<_>>()?,
        shares: plan
            .shares
            .iter()
            .zip(sockets)
            .map(|(share, socket)| Ok(spec::Share { socket: passed.take(socket)?, tag: share.tag.clone() }))
            .collect::<Result<_>>()?,
        cards: plan
            .cards()
            .zip(taps)
            .map(|(address, tap)| Ok(spec::Card { tap: passed.take(tap)?, address }))
            .collect::<Result<_>>()?,
    };
    let own = std::env::current_exe().context("find this program's own file")?;
    let mut command = Command::new(own);
    // A process group of its own: Ctrl-C at the terminal is for the supervisor, which stops the pod in order.
    command.arg("vmm").env_clear().process_group(0).stdin(written(&spec)?).stdout(Stdio::null());
    command.stderr(if plan.debug { Stdio::inherit() } else { Stdio::null() });
    let process = crate::sys::die_with_parent(&mut command).spawn().context("start the hypervisor process")?;
    Ok(Machine { process, servers, channel, report, boot_secs_max: BOOT_SECS_MAX })
}

/// What this machine adds: it has no PCI bus to look for, and with `--debug` a serial port, which a kernel may use early, later or
/// both.
fn command_line(plan: &VmPlan) -> String {
    let console = if plan.debug { " earlyprintk=ttyS0,115200" } else { "" };
    format!("{} pci=off{console}", plan.command_line)
}

/// The child: all it needs is in the fds it was given.
pub(crate) fn main() -> ExitCode {
    match contract::json::read(std::io::stdin()) {
        Ok(spec) => machine::run(&spec),
        // Nobody but the supervisor starts this, so there is no one to explain it to.
        Err(_) => ExitCode::from(contract::exit::USAGE),
    }
}

/// Fds that the child inherits, kept open here until it has started.
#[derive(Default)]
struct Passed(Vec<OwnedFd>);

impl Passed {
    /// Lets the child have `fd` under the number it has here. This process has one thread and starts one child before they
    /// are closed.
    fn take(&mut self, fd: impl Into<OwnedFd>) -> Result<i32> {
        let fd = fd.into();
        rustix::io::fcntl_setfd(&fd, FdFlags::empty()).context("pass an fd to the hypervisor process")?;
        let number = fd.as_raw_fd();
        self.0.push(fd);
        Ok(number)
    }
}

fn open(path: &std::path::Path, read_only: bool) -> Result<File> {
    File::options().read(true).write(!read_only).open(path).with_context(|| format!("open `{}`", path.display()))
}

fn open_kvm() -> Result<File> {
    File::options().read(true).write(true).open("/dev/kvm").map_err(|error| {
        Advised::new(
            format!("open `/dev/kvm`: {error}"),
            "use `--hypervisor=qemu`, which can do without virtualization",
        )
        .into()
    })
}

/// The specification as the child's stdin.
fn written(spec: &Spec) -> Result<File> {
    let context = "write the machine's specification";
    let mut file = File::from(rustix::fs::memfd_create("machine", MemfdFlags::CLOEXEC).context(context)?);
    file.write_all(&serde_json::to_vec(spec)?).context(context)?;
    file.rewind().context(context)?;
    Ok(file)
}
