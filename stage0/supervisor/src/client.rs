//! The other side of `control.sock`, for the commands of `pod`; and the supervisor's process, by a pidfd that is proved to be the
//! right one.

use crate::record;
use anyhow::{Context, Result, bail, ensure};
use contract::control::{MESSAGE_BYTES_MAX, Reply, Request};
use contract::dir;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use wire::packet::{self, Packet};

/// The process of the supervisor, by the content of `pid`; none: it has ended. A stored pid may be anybody's by now, so the fd is
/// opened first and the start time is compared after: then it is the process that wrote the file.
pub fn process(pid_file: &str) -> Result<Option<OwnedFd>> {
    let mut words = pid_file.split_ascii_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (words.next(), words.next()) else {
        bail!("`{}` is not `PID START`", dir::PID);
    };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let number = pid.as_raw_nonzero();
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open process {number}")),
    };
    let now = record::start_time(&number.to_string()).ok().flatten();
    Ok((now == Some(start)).then_some(pidfd))
}

/// A connection to the supervisor: one request and its replies.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Connects to the supervisor of the pod in this directory. `None`: there is no socket, or nobody listens: the pod is not up
    /// yet, or over. A supervisor that accepts no connection for `limit` counts as one that does not listen.
    pub fn open(directory: BorrowedFd<'_>, limit: Option<Duration>) -> Result<Option<Self>> {
        let connect = || -> rustix::io::Result<OwnedFd> {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            // connect(2) waits while the queue of the listener is full, and send(2) while that of the socket is.
            if limit.is_some() {
                sockopt::set_socket_timeout(&socket, Timeout::Send, limit)?;
            }
            // Through the fd, because a socket's address is at most 108 bytes long and a data directory may be deeper.
            let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), dir::CONTROL);
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Some(Self { socket })),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Ok(None),
            Err(error) => Err(error).context("connect to the pod"),
        }
    }

    /// For poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one message, with fds.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(request).context("write a request")?;
        ensure!(bytes.len() <= MESSAGE_BYTES_MAX, "the command is too long");
        match packet::send_blocking(self.socket.as_fd(), &bytes, fds) {
            // Refused before it was heard: the reply says why.
            Err(Errno::PIPE) => Ok(()),
            sent => sent.context("send a request to the pod"),
        }
    }

    /// Waits for one reply, with the fd that may come with it. `None`: the supervisor is gone.
    pub fn receive(&self) -> Result<Option<(Reply, Option<OwnedFd>)>> {
        let mut buffer = vec![0_u8; MESSAGE_BYTES_MAX];
        match packet::receive_blocking(self.socket.as_fd(), &mut buffer, 1).context("receive from the pod")? {
            Packet::Nothing | Packet::End => Ok(None),
            Packet::Message(length, fds) => {
                let reply = serde_json::from_slice(&buffer[..length]).context("read the pod's reply")?;
                Ok(Some((reply, fds.into_iter().next())))
            }
        }
    }
}
