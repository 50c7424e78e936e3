//! What a child that becomes a program reports to stage2: its failure, its terminal, its socket for notifications, and who
//! it runs as. One message each; the end of the socket, closed by execve(2), means that the program runs.

use crate::failure::Failure;
use crate::user::Identity;
use anyhow::{Context, Result};
use contract::exit;
use rustix::fd::{AsFd, OwnedFd};
use wire::packet::{self, Packet};

/// The longest report.
const REPORT_BYTES_MAX: usize = 8 << 10;

/// What a report says.
pub(crate) enum Report {
    /// Nothing yet.
    Nothing,
    /// The master of the process' terminal.
    Terminal(OwnedFd),
    /// The socket for the app's notifications.
    Notify(OwnedFd),
    /// Who the app runs as.
    Identity(Identity),
    /// The program was not executed.
    Failed(Failure),
    /// The program was executed.
    Executed,
}

pub(crate) fn send_failure(report: &OwnedFd, failure: &Failure) {
    let mut bytes = vec![b'f', failure.exit];
    bytes.extend_from_slice(failure.message.as_bytes());
    bytes.truncate(REPORT_BYTES_MAX - 1);
    // If it cannot be sent, stage2 sees the exit code of this process, which is the same.
    let _ = packet::send_blocking(report.as_fd(), &bytes, &[]);
}

/// Reports the master of a terminal, from the child.
pub(crate) fn send_terminal(report: &OwnedFd, master: &OwnedFd) -> Result<()> {
    packet::send_blocking(report.as_fd(), b"t", &[master.as_fd()]).context("hand over the terminal")
}

/// Reports the socket for notifications, from the child.
pub(crate) fn send_notify(report: &OwnedFd, socket: &OwnedFd) -> Result<()> {
    packet::send_blocking(report.as_fd(), b"n", &[socket.as_fd()]).context("hand over the socket for notifications")
}

/// Reports who an app runs as, from the child. The app may change its passwd file; `pod exec` still means this user.
pub(crate) fn send_identity(report: &OwnedFd, who: &Identity) -> Result<()> {
    let mut bytes = vec![b'i'];
    serde_json::to_writer(&mut bytes, who).context("write who the app runs as")?;
    if bytes.len() >= REPORT_BYTES_MAX {
        return Ok(()); // Hundreds of groups: `pod exec` reads the files again.
    }
    packet::send_blocking(report.as_fd(), &bytes, &[]).context("report who the app runs as")
}

/// Takes one report, without waiting.
pub(crate) fn receive(report: &OwnedFd) -> Result<Report> {
    let mut buffer = vec![0; REPORT_BYTES_MAX];
    let (length, mut fds) = match packet::receive(report.as_fd(), &mut buffer, 1).context("receive a report")? {
        Packet::Nothing => return Ok(Report::Nothing),
        // Closed by execve(2).
        Packet::End => return Ok(Report::Executed),
        Packet::Message(length, fds) => (length, fds),
    };
    Ok(match (&buffer[..length], fds.pop()) {
        ([b't'], Some(master)) => Report::Terminal(master),
        ([b'n'], Some(socket)) => Report::Notify(socket),
        ([b'i', who @ ..], _) => Report::Identity(serde_json::from_slice(who).context("read who the app runs as")?),
        ([b'f', exit, message @ ..], _) => {
            Report::Failed(Failure { exit: *exit, message: String::from_utf8_lossy(message).into_owned() })
        }
        _ => Report::Failed(Failure { exit: exit::FAILURE, message: "a report that nobody understands".to_owned() }),
    })
}
