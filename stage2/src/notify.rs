//! sd_notify for an app that asks for it: a datagram socket in the app's own /dev, read by PID 1.
//!
//! The app's process makes it before it becomes the app's program, so no path of the root is involved, and hands the
//! descriptor to PID 1 by its report. What comes in is hostile; all that is taken from it is that the app is ready.

use crate::report;
use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

/// Where the app finds it; below /dev, which is ours also when the root is read-only.
pub(crate) const PATH: &str = "/dev/notify";
const NAME: &str = "notify";
/// Longest message that is looked at, as in systemd.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Messages taken at once, so that an app that floods the socket does not keep PID 1 from its other work.
const MESSAGES_AT_ONCE_MAX: usize = 16;

/// In the app's process, when its root is `/`. `dev` is the app's own /dev, in which nothing else of the app has run yet.
pub(crate) fn make(dev: &OwnedFd, report: &OwnedFd) -> Result<()> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(PATH)?)?;
        // To send is to write, which every user of the app may.
        rustix::fs::chmodat(dev, NAME, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        Ok(socket)
    };
    let socket = make().with_context(|| format!("make the socket `{PATH}`"))?;
    report::send_notify(report, &socket)
}

/// Takes what has come in; whether the app said that it is ready. Descriptors that come along are closed by the kernel,
/// which is what a sender of `BARRIER=1` waits for.
pub(crate) fn ready(socket: &OwnedFd) -> Result<bool> {
    let (mut buffer, mut ready) = ([0; MESSAGE_BYTES_MAX], false);
    for _ in 0..MESSAGES_AT_ONCE_MAX {
        match rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((_, length)) => ready |= says_ready(&buffer[..length.min(MESSAGE_BYTES_MAX)]),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("read an app's notification"),
        }
    }
    Ok(ready)
}

/// A message is a list of `NAME=value` lines.
fn says_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness() {
        for (message, expected) in [
            ("READY=1", true),
            ("READY=1\n", true),
            ("STATUS=up\nREADY=1\nMAINPID=7", true),
            ("READY=10", false),
            ("READY=0", false),
            ("XREADY=1", false),
            ("STATUS=READY=1", false),
            ("", false),
        ] {
            assert_eq!(says_ready(message.as_bytes()), expected, "{message:?}");
        }
    }
}
