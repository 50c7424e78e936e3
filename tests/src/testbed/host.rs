//! The host's side: qemu and virtiofsd as children of one thread, killed with it.

use super::{Job, Report, archive, modules};
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const MKFS: [&str; 2] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];
/// Size of the machine's disk, which takes as much room as is written to it.
const DISK_BYTES: u64 = 8 << 30;
const VIRTIOFSD: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
/// What the machine needs before it has a root, and what Debian's systemd would load for the tests.
const MODULES: [&str; 14] = [
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "virtio_console",
    "virtio_rng",
    "virtiofs",
    "overlay",
    "kvm_amd",
    "tun",
    "veth",
    "dm_verity",
    "erofs",
    "loop",
    "fuse",
];
/// Where the machine's root is bound on the host, in a mount namespace of ours.
const SHARED: &str = "/mnt";
/// Kept of the console.
const CONSOLE_BYTES_MAX: usize = 64 << 10;
/// Kept of each output.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Why no testbed can run here, or nothing.
pub(super) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("the testbed is started by root".into());
    }
    if !Path::new(QEMU).exists() {
        return Some("install qemu-system-x86".into());
    }
    if virtiofsd().is_none() {
        return Some("install virtiofsd, or on Debian 12 qemu-system-common".into());
    }
    if !MKFS.iter().any(|path| Path::new(path).exists()) {
        return Some("install e2fsprogs".into());
    }
    kernel().err().map(|error| format!("{error:#}"))
}

fn virtiofsd() -> Option<&'static str> {
    VIRTIOFSD.into_iter().find(|path| Path::new(path).exists())
}

/// The newest of Debian's kernels in `/boot` that has modules with KVM for AMD, and the directory of its modules.
fn kernel() -> Result<(PathBuf, PathBuf)> {
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir("/boot").context("read `/boot`")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(version) = name.strip_prefix("vmlinuz-") else { continue };
        let modules = Path::new("/lib/modules").join(version);
        let kvm = modules.join("kernel/arch/x86/kvm");
        if ["kvm-amd.ko", "kvm-amd.ko.xz"].iter().any(|file| kvm.join(file).exists()) {
            found.push((entry.path(), modules));
        }
    }
    found.sort();
    found.pop().context("install linux-image-cloud-amd64")
}

/// Boots, runs, and brings back. In a thread of its own, because it leaves the mount namespace of the others, and because
/// the kernel kills the children when that thread ends, whatever ended it.
pub(super) fn run(job: &Job) -> Result<Report> {
    let result = std::thread::scope(|scope| scope.spawn(|| machine(job)).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn machine(job: &Job) -> Result<Report> {
    let (kernel, directory) = kernel()?;
    let modules = modules::resolve(&directory, &MODULES)?;
    let mut initramfs = tempfile::tempfile().context("make a temporary file")?;
    let init = std::env::current_exe().context("find this program's own file")?;
    archive::write(&mut initramfs, &testbed(&init), &modules, &words(job)?)?;
    initramfs.rewind()?;
    let disk = OwnedFd::from(disk().context("make the machine's disk")?);
    let (share, _virtiofsd) = share()?;
    let ports = ["stdout", "stderr", "status", "console"].map(|_| UnixStream::pair());
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for pair in ports {
        let (our, their) = pair.context("make a socket")?;
        ours.push(our);
        theirs.push(OwnedFd::from(their));
    }
    let mut command = killed_with_us(QEMU);
    command.args(arguments(job, &kernel, [initramfs.as_fd(), disk.as_fd(), share.as_fd()], &theirs));
    let initramfs = OwnedFd::from(initramfs);
    for fd in theirs.iter().chain([&share, &initramfs, &disk]) {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).context("pass a file to qemu")?;
    }
    // Warnings of what the translator lacks, and errors, are words of the machine.
    command.stderr(theirs[3].try_clone().context("clone a socket")?);
    let qemu = Guard(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("start qemu")?);
    // It holds an end of the console.
    drop((command, theirs));
    let (outputs, late) = collect(&ours, job)?;
    drop(qemu);
    report(outputs, late)
}

/// The guest's init is the program `testbed`; a test finds it beside or above itself.
fn testbed(own: &Path) -> PathBuf {
    let directories = own.ancestors().skip(1).take(2);
    directories.map(|directory| directory.join("testbed")).find(|path| path.exists()).unwrap_or(own.to_owned())
}

/// An empty ext4 in a file without a name.
fn disk() -> Result<File> {
    let file = tempfile::tempfile()?;
    file.set_len(DISK_BYTES)?;
    let inherited = file.try_clone()?;
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty())?;
    let program = MKFS.iter().find(|path| Path::new(path).exists()).context("mkfs.ext4 is not installed")?;
    let mut command = Command::new(program);
    // Without a journal and without what the kernel would initialize later, in the tests' time.
    command.args(["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", "-N", "200000"]);
    let status = command.arg(format!("/proc/self/fd/{}", inherited.as_raw_fd())).stdin(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "mkfs.ext4 ended with {status}");
    Ok(file)
}

fn words(job: &Job) -> Result<String> {
    let mut lines = vec![if job.systemd { "systemd" } else { "alone" }.to_owned()];
    lines.push(job.directory.to_str().context("the directory's name is not UTF-8")?.to_owned());
    lines.push(job.environment.len().to_string());
    lines.extend(job.environment.iter().map(|(name, value)| format!("{name}={value}")));
    lines.extend(job.command.iter().cloned());
    if lines.iter().any(|line| line.contains('\n')) {
        bail!("a word of the command has a line break");
    }
    Ok(lines.join("\n"))
}

/// Serves the host's root file system, read-only: a bind mount that is not recursive, so that the kernel's file systems and
/// whatever else is mounted on the host stay out.
fn share() -> Result<(OwnedFd, Guard)> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).context("part from the host")?;
    mount_bind("/", SHARED).context("bind the host's root")?;
    mount_remount(SHARED, MountFlags::BIND | MountFlags::RDONLY, c"").context("make the host's root read-only")?;
    let directory = tempfile::tempdir().context("make a temporary directory")?;
    let name = directory.path().join("socket");
    let listener = OwnedFd::from(UnixListener::bind(&name).context("make a socket")?);
    let stream = OwnedFd::from(UnixStream::connect(&name).context("connect to a socket")?);
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).context("pass a socket")?;
    let program = virtiofsd().context("virtiofsd is not installed")?;
    let mut command = killed_with_us(program);
    command.args([&format!("--fd={}", listener.as_raw_fd()), "--rlimit-nofile=0", "-o"]);
    command.arg(format!("source={SHARED},cache=always,log_level=err"));
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("start virtiofsd")?;
    Ok((stream, Guard(child)))
}

fn killed_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended by itself.
        let _ = self.0.wait();
    }
}

/// EPYC-v3 is the newest of qemu's models whose AMD-V its translator emulates with nested paging.
///
/// One CPU: in qemu before 8.1 a CPU may keep a translation of code that another is changing. KVM changes its own with every guest
/// that starts (static keys of the APIC), and in 2 of 400 starts both CPUs went on meeting a breakpoint that had long been removed.
fn arguments(
    job: &Job,
    kernel: &Path,
    [initramfs, disk, share]: [BorrowedFd<'_>; 3],
    ports: &[OwnedFd],
) -> Vec<String> {
    let memory = job.memory_mib;
    let mut line =
        String::from("console=ttyS0 panic=-1 no_timer_check systemd.unified_cgroup_hierarchy=1 mitigations=off");
    line.push_str(if job.console { "" } else { " quiet" });
    line.push(' ');
    line.push_str(&job.kernel_arguments);
    let mut words: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "EPYC-v3",
        "-smp",
        "1",
        "-M",
        "q35,memory-backend=memory",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut pair = |option: &str, value: String| words.extend([option.to_owned(), value]);
    pair("-m", format!("{memory}M"));
    pair("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
    pair("-kernel", kernel.display().to_string());
    pair("-initrd", format!("/proc/self/fd/{}", initramfs.as_raw_fd()));
    pair("-append", line);
    // Nothing on it outlives the machine, so nothing is ever forced out.
    let file = format!("/proc/self/fd/{}", disk.as_raw_fd());
    pair("-drive", format!("if=none,id=disk,format=raw,cache=unsafe,file.locking=off,file={file}"));
    pair("-device", "virtio-blk-pci,drive=disk".into());
    pair("-chardev", format!("socket,id=share,fd={}", share.as_raw_fd()));
    pair("-device", "vhost-user-fs-pci,chardev=share,tag=host".into());
    pair("-object", "rng-builtin,id=random".into());
    pair("-device", "virtio-rng-pci,rng=random".into());
    pair("-device", "virtio-serial-pci".into());
    for (name, fd) in ["stdout", "stderr", "status"].iter().zip(ports) {
        pair("-chardev", format!("socket,id={name},fd={}", fd.as_raw_fd()));
        pair("-device", format!("virtserialport,chardev={name},name=testbed.{name}"));
    }
    pair("-chardev", format!("socket,id=console,fd={}", ports[3].as_raw_fd()));
    pair("-serial", "chardev:console".into());
    words
}

/// Reads all streams until qemu has closed them, or the time is over.
fn collect(streams: &[UnixStream], job: &Job) -> Result<(Vec<Vec<u8>>, bool)> {
    let end = Instant::now() + job.time_max;
    let mut outputs: Vec<Vec<u8>> = vec![Vec::new(); streams.len()];
    let mut open: Vec<usize> = (0..streams.len()).collect();
    while !open.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((outputs, true));
        }
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0) + 1, tv_nsec: 0 };
        let mut fds: Vec<PollFd<'_>> =
            open.iter().map(|&index| PollFd::from_borrowed_fd(streams[index].as_fd(), PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the machine"),
        }
        let ready: Vec<usize> =
            open.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(&index, _)| index).collect();
        for index in ready {
            let mut buffer = [0; 16 << 10];
            let count = (&streams[index]).read(&mut buffer).unwrap_or(0); // A reset is an end, too.
            if count == 0 {
                open.retain(|&other| other != index);
            }
            keep(&mut outputs[index], &buffer[..count], index == 3, job.console);
        }
    }
    Ok((outputs, false))
}

fn keep(output: &mut Vec<u8>, bytes: &[u8], console: bool, shown: bool) {
    if console {
        if shown {
            eprint!(
                "{}",
                String::from_utf8_lossy(bytes).replace(|letter: char| letter.is_control() && letter != '\n', "")
            );
        }
        output.extend_from_slice(bytes);
        let excess = output.len().saturating_sub(CONSOLE_BYTES_MAX);
        output.drain(..excess);
    } else {
        let room = OUTPUT_BYTES_MAX.saturating_sub(output.len());
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn report(outputs: Vec<Vec<u8>>, late: bool) -> Result<Report> {
    let Ok([stdout, stderr, status, console]) = <[Vec<u8>; 4]>::try_from(outputs) else {
        bail!("there are four streams")
    };
    let code = std::str::from_utf8(&status).ok().and_then(|text| text.trim().parse().ok());
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().collect();
    let console = lines[lines.len().saturating_sub(20)..].join("\n");
    Ok(Report { code, stdout, stderr, late, console })
}
