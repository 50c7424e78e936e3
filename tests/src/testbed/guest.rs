//! The machine's side: PID 1 of the initramfs, as root in a kernel that has nothing else; and, under systemd, the service.

use super::archive::{JOB, MODULES};
use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::system::{RebootCommand, reboot};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the new root is put together.
const ROOT: &str = "/root";
/// The job and this program, for the service.
const PRIVATE: &str = "/run/testbed";
/// The service, for systemd.
const UNIT: &str =
    "[Unit]\nDescription=Testbed\n[Service]\nType=exec\nDelegate=yes\nExecStart=/run/testbed/init service\n";

/// Sets the machine up, runs the job, and ends the machine.
pub fn init() -> ! {
    if let Err(error) = set_up() {
        eprintln!("testbed: {error:#}");
    }
    off()
}

/// Runs the job of `/run/testbed`, says how it ended, and ends the machine.
pub fn service() -> ! {
    if let Err(error) = job() {
        eprintln!("testbed: {error:#}");
    }
    off()
}

fn off() -> ! {
    let _ = reboot(RebootCommand::Restart);
    std::process::abort()
}

fn set_up() -> Result<()> {
    kernel_file_systems("")?;
    let mut modules: Vec<PathBuf> =
        std::fs::read_dir(MODULES).context("read the modules")?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for path in modules {
        let file = File::open(&path)?;
        // 4: MODULE_INIT_COMPRESSED_FILE.
        let flags = if path.extension().is_some_and(|suffix| suffix == "ko") { 0 } else { 4 };
        if let Err(error) = rustix::system::finit_module(&file, c"", flags) {
            // Some depend on hardware that is not there; what is missed is missed by name later.
            eprintln!("testbed: load `{}`: {error}", path.display());
        }
    }
    root()?;
    let job = std::fs::read_to_string(JOB).context("read the job")?;
    let private = format!("{ROOT}{PRIVATE}");
    std::fs::create_dir_all(&private).context("make a directory")?;
    std::fs::write(format!("{private}/job"), &job)?;
    std::fs::copy("/init", format!("{private}/init")).context("copy this program")?;
    let units = format!("{ROOT}/run/systemd/system");
    std::fs::create_dir_all(&units)?;
    std::fs::write(format!("{units}/testbed.service"), UNIT)?;
    std::env::set_current_dir(ROOT)?;
    mount_move(".", "/").context("move the root")?;
    rustix::process::chroot(".").context("change the root")?;
    std::env::set_current_dir("/")?;
    if job.starts_with("systemd\n") {
        let error = Command::new("/lib/systemd/systemd").arg("--unit=testbed.service").env_clear().exec();
        return Err(error).context("execute systemd");
    }
    cgroups()?;
    mount("securityfs", "/sys/kernel/security", "securityfs", MountFlags::NOSUID, None).context("mount securityfs")?;
    self::job()
}

/// The host's files below, memory above, and the kernel's own file systems fresh.
fn root() -> Result<()> {
    mount("host", "/host", "virtiofs", MountFlags::RDONLY, None).context("mount the host's root")?;
    mount("layer", "/layer", "tmpfs", MountFlags::empty(), Some(c"size=50%")).context("mount a tmpfs")?;
    for directory in ["/layer/upper", "/layer/work"] {
        std::fs::create_dir(directory)?;
    }
    let options = c"lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work";
    mount("root", ROOT, "overlay", MountFlags::empty(), Some(options)).context("mount the overlay")?;
    kernel_file_systems(ROOT)?;
    let run = format!("{ROOT}/run");
    mount("tmpfs", &run, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, Some(c"mode=0755"))
        .with_context(|| format!("mount a tmpfs at `{run}`"))?;
    for (kind, directory) in [("devpts", "dev/pts"), ("tmpfs", "dev/shm")] {
        let target = format!("{ROOT}/{directory}");
        std::fs::create_dir_all(&target)?;
        mount(kind, &target, kind, MountFlags::NOSUID, None).with_context(|| format!("mount {kind}"))?;
    }
    Ok(())
}

fn kernel_file_systems(root: &str) -> Result<()> {
    for (kind, directory) in [("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")] {
        let target = format!("{root}/{directory}");
        mount(kind, &target, kind, MountFlags::NOSUID, None).with_context(|| format!("mount {kind} at `{target}`"))?;
    }
    Ok(())
}

/// cgroup v2 as systemd would leave it: all controllers on for the children of the root.
fn cgroups() -> Result<()> {
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::NOSUID, None).context("mount cgroup2")?;
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").context("read the controllers")?;
    for controller in controllers.split_ascii_whitespace() {
        std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"))
            .with_context(|| format!("turn on the controller {controller}"))?;
    }
    Ok(())
}

fn job() -> Result<()> {
    let text = std::fs::read_to_string(format!("{PRIVATE}/job")).context("read the job")?;
    let mut lines = text.lines().skip(1);
    let directory = lines.next().context("the job has no directory")?;
    let variables: usize = lines.next().context("the job has no variables")?.parse().context("count the variables")?;
    let variables: Vec<(&str, &str)> = lines.by_ref().take(variables).filter_map(|line| line.split_once('=')).collect();
    let Some(program) = lines.next() else { bail!("the job has no command") };
    let temporary = format!("{PRIVATE}/tmp");
    std::fs::create_dir_all(&temporary)?;
    mount("/dev/vda", &temporary, "ext4", MountFlags::empty(), None).context("mount the machine's disk")?;
    let mut status = port("status")?;
    let code = Command::new(program)
        .args(lines)
        .current_dir(directory)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("TMPDIR", temporary)
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(port("stdout")?)
        .stderr(port("stderr")?)
        .status()
        .map(|status| status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(125));
    let code = match code {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: execute `{program}`: {error}");
            127
        }
    };
    std::io::Write::write_all(&mut status, format!("{code}\n").as_bytes()).context("say how it ended")?;
    Ok(())
}

/// A port by the name the host gave it. Opening waits for nothing: the driver has read the names long before the root is there.
fn port(name: &str) -> Result<File> {
    let wanted = format!("testbed.{name}");
    let ports = std::fs::read_dir("/sys/class/virtio-ports").context("read the ports")?;
    let found = ports
        .flatten()
        .find(|port| std::fs::read_to_string(port.path().join("name")).is_ok_and(|text| text.trim_end() == wanted));
    let path = Path::new("/dev").join(found.with_context(|| format!("no port {wanted}"))?.file_name());
    File::options().write(true).open(&path).with_context(|| format!("open `{}`", path.display()))
}
