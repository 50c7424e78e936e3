//! `control.sock`: connections of `pod stop`, `pod exec` and `pod status`.
//!
//! Only root (or this process's own user) is heard. A connection is one request; an `exec` keeps it open as a session.
//! Nobody is waited for: who does not read is cut off.

use crate::channel::{self, Packet};
use crate::terminal;
use anyhow::{Context, Result};
use contract::control::{MESSAGE_BYTES_MAX, Reply, Request};
use contract::dir;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// At most this many connections at once.
const CLIENTS_MAX: usize = 64;
const BACKLOG: i32 = 64;

/// The socket and who is connected.
pub(crate) struct Control {
    listener: OwnedFd,
    clients: Vec<Client>,
    last: u32,
    buffer: Vec<u8>,
}

struct Client {
    id: u32,
    socket: OwnedFd,
    /// An exec session runs; its number is the client's.
    session: bool,
    /// The master side of the session's terminal; the client has it too.
    master: Option<OwnedFd>,
}

/// What a client wants, or that it is gone.
pub(crate) enum Heard {
    /// Nothing now.
    Nothing,
    /// A request and its fds.
    Request(Request, Vec<OwnedFd>),
    /// The connection is over; it had a session that goes on.
    Abandoned,
    /// The connection is over.
    Gone,
}

impl Control {
    /// Makes the socket in the current directory, the pod directory. Its mode is 0700, so no other user gets here.
    pub(crate) fn bind() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let address = SocketAddrUnix::new(dir::CONTROL)?;
        rustix::net::bind(&listener, &address).with_context(|| format!("make `{}`", dir::CONTROL))?;
        rustix::net::listen(&listener, BACKLOG).with_context(|| format!("listen on `{}`", dir::CONTROL))?;
        Ok(Self { listener, clients: Vec::new(), last: 0, buffer: Vec::new() })
    }

    /// The listening socket, for poll.
    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// All clients, for poll.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.clients.iter().map(|client| (client.id, client.socket.as_fd()))
    }

    /// Takes one connection.
    pub(crate) fn accept(&mut self) -> Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) => socket,
            // The client gave up before it was taken.
            Err(Errno::AGAIN | Errno::CONNABORTED) => return Ok(()),
            Err(error) => return Err(error).context("accept a control connection"),
        };
        let peer = rustix::net::sockopt::socket_peercred(&socket).context("identify a control connection")?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Ok(());
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; MESSAGE_BYTES_MAX];
        }
        if self.clients.len() >= CLIENTS_MAX {
            // A socket that is closed with something unread gives its peer an error in place of the reply.
            let _ = channel::receive(socket.as_fd(), &mut self.buffer);
            let message = format!("the pod has {CLIENTS_MAX} control connections already");
            let _ = reply(socket.as_fd(), &Reply::Refused { message }, &[]); // It is cut off either way.
            return Ok(());
        }
        let id = self.free_id();
        self.clients.push(Client { id, socket, session: false, master: None });
        Ok(())
    }

    /// Session numbers are never 0, which means the apps, and never one in use.
    fn free_id(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && self.clients.iter().all(|client| client.id != self.last) {
                return self.last;
            }
        }
    }

    /// Takes what client `id` says.
    pub(crate) fn hear(&mut self, id: u32) -> Heard {
        let Some(client) = self.clients.iter().find(|client| client.id == id) else { return Heard::Nothing };
        match channel::receive(client.socket.as_fd(), &mut self.buffer) {
            Ok(Packet::Nothing) => Heard::Nothing,
            Ok(Packet::Message(fds, length)) => match serde_json::from_slice(&self.buffer[..length]) {
                Ok(request) => Heard::Request(request, fds),
                Err(error) => {
                    self.tell(id, &Reply::Refused { message: format!("understand the request: {error}") }, &[]);
                    self.close(id)
                }
            },
            Ok(Packet::End) | Err(_) => self.close(id),
        }
    }

    /// Whether client `id` has an exec session.
    pub(crate) fn in_session(&self, id: u32) -> bool {
        self.clients.iter().any(|client| client.id == id && client.session)
    }

    /// Client `id` is an exec session from now on.
    pub(crate) fn open_session(&mut self, id: u32) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.session = true;
        }
    }

    /// The process of session `id` runs, perhaps on a terminal.
    pub(crate) fn started(&mut self, id: u32, master: Option<OwnedFd>) {
        let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
        self.tell(id, &Reply::Started, &fds);
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.master = master;
        }
    }

    /// The client's terminal has a new size.
    pub(crate) fn resize(&self, id: u32, size: (u16, u16)) {
        let client = self.clients.iter().find(|client| client.id == id);
        if let Some(master) = client.and_then(|client| client.master.as_ref()) {
            terminal::set_size(master.as_fd(), size);
        }
    }

    /// Sends to client `id`; one that does not read is dropped.
    pub(crate) fn tell(&mut self, id: u32, what: &Reply, fds: &[BorrowedFd<'_>]) {
        let Some(client) = self.clients.iter().find(|client| client.id == id) else { return };
        if reply(client.socket.as_fd(), what, fds).is_err() {
            self.close(id);
        }
    }

    /// Ends the connection of client `id`.
    pub(crate) fn close(&mut self, id: u32) -> Heard {
        let session = self.in_session(id);
        self.clients.retain(|client| client.id != id);
        if session { Heard::Abandoned } else { Heard::Gone }
    }
}

fn reply(socket: BorrowedFd<'_>, what: &Reply, fds: &[BorrowedFd<'_>]) -> Result<()> {
    Ok(channel::send(socket, &serde_json::to_vec(what)?, fds)?)
}
