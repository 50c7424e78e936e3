//! `control.sock`: the connections of clients.
//!
//! Only root (or this process's own user) is heard. Sends never block; a client that does not read is disconnected.

use crate::life::ClientId;
use anyhow::{Context, Result};
use contract::control::{MESSAGE_BYTES_MAX, Reply, Request};
use contract::dir;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wire::packet::{self, Packet};

/// At most this many connections at once.
const CLIENTS_MAX: usize = 64;
const BACKLOG: i32 = 64;
/// No request carries more.
const FDS_RECEIVED_MAX: usize = 3;

/// The socket and who is connected.
#[derive(Debug)]
pub(crate) struct Control {
    listener: OwnedFd,
    clients: Vec<Client>,
    last: ClientId,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    socket: OwnedFd,
    /// What came with its `Exec`, until the session opens.
    fds: Vec<OwnedFd>,
    /// Its terminal: the master, or what stands for it.
    terminal: Option<OwnedFd>,
}

/// What came from a client.
#[derive(Debug)]
pub(crate) enum Received {
    Nothing,
    /// A request that brought so many descriptors.
    Request(Request, usize),
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
    pub(crate) fn clients(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>)> {
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
            let _ = packet::receive(socket.as_fd(), &mut self.buffer, FDS_RECEIVED_MAX);
            let message = format!("the pod has {CLIENTS_MAX} control connections already");
            let _ = send(socket.as_fd(), &Reply::Refused { message }, &[]); // It is disconnected either way.
            return Ok(());
        }
        let id = self.free_id();
        self.clients.push(Client { id, socket, fds: Vec::new(), terminal: None });
        Ok(())
    }

    /// Session numbers are never 0, which means the apps, and not one in use.
    fn free_id(&mut self) -> ClientId {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && self.clients.iter().all(|client| client.id != self.last) {
                return self.last;
            }
        }
    }

    fn client(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    /// Takes what client `id` says.
    pub(crate) fn receive(&mut self, id: ClientId) -> Received {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return Received::Nothing };
        match packet::receive(client.socket.as_fd(), &mut self.buffer, FDS_RECEIVED_MAX) {
            Ok(Packet::Nothing) => Received::Nothing,
            Ok(Packet::Message(length, fds)) => match serde_json::from_slice(&self.buffer[..length]) {
                Ok(request) => {
                    let count = fds.len();
                    if matches!(request, Request::Exec(_)) && client.fds.is_empty() {
                        client.fds = fds;
                    }
                    Received::Request(request, count)
                }
                Err(error) => {
                    self.reply(id, &Reply::Refused { message: format!("understand the request: {error}") });
                    Received::Gone
                }
            },
            Ok(Packet::End) | Err(_) => Received::Gone,
        }
    }

    /// The descriptors that came with the client's `Exec`.
    pub(crate) fn take_fds(&mut self, id: ClientId) -> Vec<OwnedFd> {
        self.client(id).map(|client| std::mem::take(&mut client.fds)).unwrap_or_default()
    }

    /// The client's terminal is this.
    pub(crate) fn set_terminal(&mut self, id: ClientId, terminal: Option<OwnedFd>) {
        if let Some(client) = self.client(id) {
            client.terminal = terminal;
        }
    }

    /// The client's terminal.
    pub(crate) fn terminal(&self, id: ClientId) -> Option<BorrowedFd<'_>> {
        self.clients.iter().find(|client| client.id == id)?.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Tells client `id` that its process runs, with its terminal if it has one. False: it does not read, or is not there.
    pub(crate) fn started(&mut self, id: ClientId) -> bool {
        let Some(client) = self.client(id) else { return false };
        let fds: Vec<BorrowedFd<'_>> = client.terminal.iter().map(AsFd::as_fd).collect();
        send(client.socket.as_fd(), &Reply::Started, &fds).is_ok()
    }

    /// Sends to client `id`. False: it does not read, or is not there.
    pub(crate) fn reply(&mut self, id: ClientId, reply: &Reply) -> bool {
        self.client(id).is_some_and(|client| send(client.socket.as_fd(), reply, &[]).is_ok())
    }

    /// Ends the connection of client `id`.
    pub(crate) fn close(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
    }
}

fn send(socket: BorrowedFd<'_>, reply: &Reply, fds: &[BorrowedFd<'_>]) -> Result<()> {
    Ok(packet::send(socket, &serde_json::to_vec(reply)?, fds)?)
}
