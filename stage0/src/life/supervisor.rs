//! The supervisor of a running pod: its process, by a pidfd that is proved to be the right one, and its control socket.

use super::pods::PodDir;
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::control::{MESSAGE_BYTES_MAX, Reply, Request};
use contract::dir::{CONTROL, PID};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The process of the supervisor, if it still runs. A stored pid may be anybody's by now, so the fd is opened first and the
/// start time is compared after: then it is the process that wrote the file, or the answer is none.
pub(crate) fn process(pod: &PodDir) -> Result<Option<OwnedFd>> {
    let Some(file) = pod.open_file(PID)? else { return Ok(None) };
    let mut text = String::new();
    file.take(64).read_to_string(&mut text).with_context(|| format!("read `{PID}` of pod `{}`", pod.uuid))?;
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start))) = (words.next(), words.next()) else {
        return Err(Failure::new(format!("`{PID}` of pod `{}` is not `PID START`", pod.uuid)).into());
    };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open process {}", pid.as_raw_nonzero())),
    };
    Ok((start_time(pid) == Some(start)).then_some(pidfd))
}

/// Field 22 of /proc/PID/stat; the name of the program, which may hold spaces, ends at the last parenthesis.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A connection to the supervisor: one request and its replies.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Connects. `None`: there is no socket, or nobody listens: the pod is not up yet, or over.
    pub(crate) fn open(pod: &PodDir) -> Result<Option<Self>> {
        Self::connect(pod, None)
    }

    /// As [`Connection::open`]; a supervisor that accepts no connection for `limit` counts as one that does not listen.
    pub(crate) fn open_within(pod: &PodDir, limit: Duration) -> Result<Option<Self>> {
        Self::connect(pod, Some(limit))
    }

    fn connect(pod: &PodDir, limit: Option<Duration>) -> Result<Option<Self>> {
        let connect = || -> rustix::io::Result<OwnedFd> {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            // connect(2) waits while the queue of the listener is full, and send(2) while that of the socket is.
            if limit.is_some() {
                sockopt::set_socket_timeout(&socket, Timeout::Send, limit)?;
            }
            // Through the fd, because a socket's address is at most 108 bytes long and a data directory may be deeper.
            let path = format!("/proc/self/fd/{}/{CONTROL}", pod.fd().as_raw_fd());
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Some(Self { socket })),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("connect to pod `{}`", pod.uuid)),
        }
    }

    /// For poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one message, with fds.
    pub(crate) fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(request).context("write a request")?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Failure::new("the command is too long").into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
            .context("send a request to the pod")?;
        Ok(())
    }

    /// Waits for one reply, with the fd that may come with it. `None`: the supervisor is gone.
    pub(crate) fn receive(&self) -> Result<Option<(Reply, Option<OwnedFd>)>> {
        let mut buffer = vec![0_u8; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC;
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                other => break other.context("receive from the pod")?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let reply = serde_json::from_slice(&buffer[..received.bytes]).context("read the pod's reply")?;
        Ok(Some((reply, fd)))
    }
}
