//! Standard streams of a process: inherited, null, given, or a terminal of its own.

use crate::mount;
use crate::report;
use crate::root::Root;
use anyhow::{Context, Result, ensure};
use contract::pod::Stdio;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::path::Path;

/// From the kernel's magic.h.
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
const PIPEFS_MAGIC: i64 = 0x5049_5045;
/// The group that owns terminals, as in the options of devpts.
const TTY_GROUP: u32 = 5;

/// Where a process reads and writes.
#[derive(Debug)]
pub(crate) enum Streams {
    /// stage2's own, but for stdin if it is not meant to be read.
    Inherit {
        /// Whether stdin is inherited too.
        stdin: bool,
    },
    /// The null device for all three.
    Null,
    /// These three.
    Given([OwnedFd; 3]),
    /// A new terminal, of this size (rows, columns).
    Terminal(Option<(u16, u16)>),
}

impl Streams {
    /// As `pod.json` says. `size` is the caller's terminal's.
    pub(crate) fn of(stdio: Stdio, size: Option<(u16, u16)>) -> Self {
        match stdio {
            Stdio::Inherit { stdin } => Self::Inherit { stdin },
            Stdio::Null => Self::Null,
            Stdio::Tty => Self::Terminal(size),
        }
    }
}

/// /dev and /dev/pts of an app that already runs, so that a process can be started beside it.
pub(crate) fn existing(root: &Root) -> Result<(OwnedFd, OwnedFd)> {
    let open = |path| root.at(Path::new(path), OFlags::PATH | OFlags::DIRECTORY);
    Ok((open("dev").context("open the app's /dev")?, open("dev/pts").context("open the app's /dev/pts")?))
}

/// Puts the streams on descriptors 0 to 2. A new terminal belongs to `uid`, and its master goes into the report.
pub(crate) fn connect(streams: &Streams, dev: &OwnedFd, pts: &OwnedFd, uid: u32, report: &OwnedFd) -> Result<()> {
    match streams {
        Streams::Inherit { stdin } => {
            if !stdin {
                rustix::stdio::dup2_stdin(null(dev)?).context("connect stdin")?;
            }
            own_pipes(uid);
        }
        Streams::Null => on_standard(&null(dev)?)?,
        Streams::Given([stdin, stdout, stderr]) => {
            rustix::stdio::dup2_stdin(stdin).context("connect stdin")?;
            rustix::stdio::dup2_stdout(stdout).context("connect stdout")?;
            rustix::stdio::dup2_stderr(stderr).context("connect stderr")?;
            own_pipes(uid);
        }
        Streams::Terminal(size) => terminal(*size, dev, pts, uid, report).context("make a terminal")?,
    }
    Ok(())
}

/// The null device of a /dev: in a running app's own the node might have been replaced.
fn null(dev: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let null = rustix::fs::openat(dev, "null", flags, Mode::empty()).context("open /dev/null")?;
    crate::device::check_null(null.as_fd())?;
    Ok(null)
}

fn on_standard(fd: &OwnedFd) -> Result<()> {
    rustix::stdio::dup2_stdin(fd).context("connect stdin")?;
    rustix::stdio::dup2_stdout(fd).context("connect stdout")?;
    rustix::stdio::dup2_stderr(fd).context("connect stderr")
}

/// Anonymous pipes become the user's, so that it can open /dev/stdout again, which log files are often linked to. Files that
/// have a name somewhere are left alone: they are not ours.
fn own_pipes(uid: u32) {
    if uid == 0 {
        return;
    }
    let own = |fd: rustix::fd::BorrowedFd<'_>| -> rustix::io::Result<()> {
        if rustix::fs::fstatfs(fd)?.f_type as i64 == PIPEFS_MAGIC {
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None)?;
        }
        Ok(())
    };
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let _ = own(fd); // The stream itself works in any case.
    }
}

/// Makes a terminal in the app's own devpts. The other side is asked for by the master's descriptor, never by its name, since
/// /dev/pts/N might lead elsewhere by then (CVE-2025-52565).
fn terminal(size: Option<(u16, u16)>, dev: &OwnedFd, pts: &OwnedFd, uid: u32, report: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = rustix::fs::openat(pts, "ptmx", flags, Mode::empty()).context("open /dev/pts/ptmx")?;
    let stat = rustix::fs::fstat(&master)?;
    let number = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let genuine = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && number == (5, 2)
        && rustix::fs::fstatfs(&master)?.f_type as i64 == DEVPTS_SUPER_MAGIC;
    ensure!(genuine, "/dev/pts/ptmx is not the terminal multiplexer");
    rustix::fs::fcntl_setfl(&master, OFlags::RDWR)?;
    rustix::pty::unlockpt(&master).context("unlock the terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).context("open the terminal")?;
    if let Some((rows, columns)) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).context("set the terminal's size")?;
    }
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(TTY_GROUP))).context("own the terminal")?;
    console(dev, &slave).context("make /dev/console")?;
    rustix::process::ioctl_tiocsctty(&slave).context("make it the controlling terminal")?;
    on_standard(&slave)?;
    report::send_terminal(report, &master)
}

/// /dev/console is the app's terminal, bound by descriptor. An app that already runs has one or never gets one.
fn console(dev: &OwnedFd, slave: &OwnedFd) -> Result<()> {
    match rustix::fs::mknodat(dev, "console", FileType::RegularFile, Mode::from_raw_mode(0o600), 0) {
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        other => other?,
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(dev, "console", flags, Mode::empty())?;
    Ok(mount::attach(mount::copy_of(slave.as_fd())?.as_fd(), target.as_fd())?)
}
