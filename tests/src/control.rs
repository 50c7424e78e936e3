//! A client of `control.sock` that says what it likes, which `pod` does not.

use contract::control::{MESSAGE_BYTES_MAX, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;

/// How long a reply may take.
const REPLY_SECS_MAX: i64 = 10;

/// One connection to a supervisor.
pub struct Client(OwnedFd);

impl Client {
    /// Connects to the supervisor of the pod in this directory.
    pub fn connect(pod_directory: &Path) -> Self {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
        let address = SocketAddrUnix::new(pod_directory.join(contract::dir::CONTROL)).expect("a short path");
        rustix::net::connect(&socket, &address).expect("the supervisor listens");
        Self(socket)
    }

    /// Sends a request. A supervisor may have closed the connection before it.
    pub fn send(&self, request: &Request) {
        let bytes = serde_json::to_vec(request).expect("a request is JSON");
        let _ = rustix::net::send(&self.0, &bytes, SendFlags::NOSIGNAL); // What it replies is what counts.
    }

    /// The next reply; none if the connection is closed.
    pub fn receive(&self) -> Option<Reply> {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        let limit = Timespec { tv_sec: REPLY_SECS_MAX, tv_nsec: 0 };
        let ready = poll(&mut polled, Some(&limit)).expect("poll");
        assert!(ready > 0, "the supervisor did not reply within {REPLY_SECS_MAX} s");
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty()).ok()?;
        (length > 0).then(|| serde_json::from_slice(&bytes[..length]).expect("a reply is JSON"))
    }
}
