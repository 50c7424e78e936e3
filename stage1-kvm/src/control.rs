//! `control.sock`: `pod exec`, `pod stop`, `pod status`. Clients are root or our own uid, and yet bounded: a slow or mad
//! client loses its session, never the pod its supervisor. The bytes of an exec session travel through the guest's channel, so
//! here they are pumped between the client's fds and session messages.

use crate::channel::Channel;
use crate::sink::Sink;
use anyhow::{Context, Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use contract::channel::{Command, DATA_BYTES_MAX, WINDOW_BYTES};
use contract::control::{Exec, MESSAGE_BYTES_MAX, Reply, Request};
use contract::dir;
use contract::status::AppEnd;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Connections at once.
const CLIENTS_MAX: usize = 64;

/// The socket and those who are connected.
#[derive(Debug)]
pub(crate) struct Control {
    listener: OwnedFd,
    clients: Vec<Client>,
    session_last: u32,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    session: Option<Session>,
    closed: bool,
}

/// A process beside an app, in the guest.
#[derive(Debug)]
struct Session {
    id: u32,
    input: Option<OwnedFd>,
    /// Bytes of input that the guest has not passed on yet.
    under_way: usize,
    outputs: [Sink; 2],
    /// What the client gets when the process runs: its end of a socket pair that stands for the terminal.
    terminal: Option<OwnedFd>,
    end: Option<AppEnd>,
}

/// An fd to poll, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A new connection.
    Listener,
    /// A packet of this client.
    Client(usize),
    /// Standard input of this client's session.
    Input(usize),
    /// Standard output (0) or error (1) of this client's session takes more.
    Output(usize, usize),
}

/// What the supervisor must answer itself.
#[derive(Debug)]
pub(crate) enum Ask {
    /// `Request::Stop`, already accepted.
    Stop(Option<u64>),
    /// `Request::Status` of the client with this index.
    Status(usize),
    /// `Request::Exec`, with the client and its fds; the supervisor knows the apps.
    Exec(usize, Exec, Vec<OwnedFd>),
}

impl Control {
    /// Listens in the current directory.
    pub(crate) fn listen() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .context("make the control socket")?;
        let address = SocketAddrUnix::new(dir::CONTROL)?;
        rustix::net::bind(&listener, &address).with_context(|| format!("bind `{}`", dir::CONTROL))?;
        rustix::net::listen(&listener, 16).with_context(|| format!("listen on `{}`", dir::CONTROL))?;
        Ok(Self { listener, clients: Vec::new(), session_last: 0 })
    }

    /// All that may have something to do. `input`: whether the guest takes more.
    pub(crate) fn sources(&self, input: bool) -> Vec<(Source, BorrowedFd<'_>)> {
        let mut sources = Vec::new();
        if self.clients.len() < CLIENTS_MAX {
            sources.push((Source::Listener, self.listener.as_fd()));
        }
        for (index, client) in self.clients.iter().enumerate() {
            sources.push((Source::Client(index), client.socket.as_fd()));
            let Some(session) = &client.session else { continue };
            if let Some(fd) = session.input.as_ref().filter(|_| input && session.under_way < WINDOW_BYTES) {
                sources.push((Source::Input(index), fd.as_fd()));
            }
            for (stream, sink) in session.outputs.iter().enumerate() {
                if let Some(fd) = sink.pending() {
                    sources.push((Source::Output(index, stream), fd));
                }
            }
        }
        sources
    }

    /// Handles a source that is ready.
    pub(crate) fn ready(&mut self, source: Source, channel: &mut Channel) -> Result<Option<Ask>> {
        match source {
            Source::Listener => self.accept(),
            Source::Client(index) => return self.packet(index, channel),
            Source::Input(index) => self.input(index, channel)?,
            Source::Output(index, stream) => {
                if let Some(session) = &mut self.clients[index].session {
                    taken(session.id, session.outputs[stream].write(), channel)?;
                }
            }
        }
        Ok(None)
    }

    fn accept(&mut self) {
        let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return; // The client went away before we came.
        };
        let own = rustix::process::geteuid();
        let peer = rustix::net::sockopt::socket_peercred(&socket).map(|peer| peer.uid);
        if peer.is_ok_and(|uid| uid.is_root() || uid == own) {
            self.clients.push(Client { socket, session: None, closed: false });
        }
    }

    fn packet(&mut self, index: usize, channel: &mut Channel) -> Result<Option<Ask>> {
        let client = &mut self.clients[index];
        let (bytes, fds) = match receive(&client.socket) {
            Ok(packet) => packet,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(_) => (Vec::new(), Vec::new()),
        };
        if bytes.is_empty() {
            client.closed = true;
            return client.kill(channel).map(|()| None);
        }
        let request = match serde_json::from_slice(&bytes) {
            Ok(request) => request,
            Err(error) => {
                client.refuse(format!("not a request: {error}"));
                return Ok(None);
            }
        };
        match (request, &client.session) {
            (Request::Exec(exec), None) => return Ok(Some(Ask::Exec(index, exec, fds))),
            (Request::Stop { grace_millis }, None) => {
                client.reply(&Reply::Accepted, None);
                client.closed = true;
                return Ok(Some(Ask::Stop(grace_millis)));
            }
            (Request::Status, None) => return Ok(Some(Ask::Status(index))),
            (Request::Signal { signal }, Some(session)) => {
                channel.send(&Command::ExecSignal { session: session.id, signal })?;
            }
            (Request::Resize { rows, columns }, Some(session)) => {
                channel.send(&Command::Resize { session: session.id, rows, columns })?;
            }
            _ => client.refuse("this request is not for this connection".to_owned()),
        }
        Ok(None)
    }

    /// Starts the session that was asked for.
    pub(crate) fn exec(&mut self, index: usize, exec: Exec, fds: Vec<OwnedFd>, channel: &mut Channel) -> Result<()> {
        let (input, outputs, terminal) = match (exec.tty, <[OwnedFd; 3]>::try_from(fds)) {
            (None, Ok([stdin, stdout, stderr])) => (stdin, [Some(stdout), Some(stderr)], None),
            (Some(_), Err(fds)) if fds.is_empty() => {
                let (ours, theirs) = UnixStream::pair().context("make a terminal's socket pair")?;
                let output = ours.try_clone().context("make a terminal's socket pair")?;
                (ours.into(), [Some(output.into()), None], Some(theirs.into()))
            }
            _ => {
                self.refuse(index, "exec needs three fds, or none with a terminal".to_owned());
                return Ok(());
            }
        };
        self.session_last += 1;
        let id = self.session_last;
        self.clients[index].session = Some(Session {
            id,
            input: Some(input),
            under_way: 0,
            outputs: outputs.map(Sink::new),
            terminal,
            end: None,
        });
        channel.send(&Command::Exec { session: id, exec })
    }

    /// Says no.
    pub(crate) fn refuse(&mut self, index: usize, message: String) {
        self.clients[index].refuse(message);
    }

    /// The one reply of a request that has no session.
    pub(crate) fn answer(&mut self, index: usize, reply: &Reply) {
        self.clients[index].reply(reply, None);
        self.clients[index].closed = true;
    }

    fn input(&mut self, index: usize, channel: &mut Channel) -> Result<()> {
        let Some(session) = &mut self.clients[index].session else { return Ok(()) };
        let Some(fd) = &session.input else { return Ok(()) };
        let Some(bytes) = read_input(fd.as_fd(), WINDOW_BYTES - session.under_way) else { return Ok(()) };
        session.under_way += bytes.len();
        if bytes.is_empty() {
            session.input = None;
        }
        channel.send(&Command::Input { session: session.id, data: BASE64_STANDARD.encode(bytes) })
    }

    /// `Event::Taken` of a session.
    pub(crate) fn passed_on(&mut self, id: u32, bytes: usize) {
        if let Some(session) = self.session(id).and_then(|client| client.session.as_mut()) {
            session.under_way = session.under_way.saturating_sub(bytes);
        }
    }

    fn session(&mut self, id: u32) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.session.as_ref().is_some_and(|session| session.id == id))
    }

    /// `Event::ExecStarted`.
    pub(crate) fn started(&mut self, id: u32) {
        let Some(client) = self.session(id) else { return };
        let terminal = client.session.as_mut().and_then(|session| session.terminal.take());
        client.reply(&Reply::Started, terminal.as_ref());
    }

    /// `Event::Output` of a session.
    pub(crate) fn output(&mut self, id: u32, stream: usize, bytes: &[u8], channel: &mut Channel) -> Result<()> {
        let Some(client) = self.session(id) else { return Ok(()) };
        let Some(session) = &mut client.session else { return Ok(()) };
        if bytes.len() + session.outputs.iter().map(Sink::len).sum::<usize>() > WINDOW_BYTES {
            bail!("the guest sent more output of session {id} than it may");
        }
        taken(id, session.outputs[stream].push(bytes), channel)
    }

    /// `Event::ExecEnded`: the client hears it when it has taken all output.
    pub(crate) fn ended(&mut self, id: u32, end: AppEnd) {
        if let Some(session) = self.session(id).and_then(|client| client.session.as_mut()) {
            session.input = None;
            session.terminal = None;
            session.end = Some(end);
        }
    }

    /// Says `Exited` where all output is out, and forgets the clients that are done.
    pub(crate) fn tidy(&mut self) {
        for client in &mut self.clients {
            let drained = |session: &mut Session| session.outputs.iter().all(|sink| sink.pending().is_none());
            if let Some(mut session) = client.session.take_if(|session| session.end.is_some() && drained(session)) {
                let end = session.end.take();
                drop(session); // A terminal ends before its process is said to have ended.
                if let Some(end) = end {
                    client.reply(&Reply::Exited { end }, None);
                }
                client.closed = true;
            }
        }
        self.clients.retain(|client| !client.closed);
    }

    /// Whether no session waits for its end to be delivered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| client.session.as_ref().is_none_or(|session| session.end.is_none()))
    }
}

impl Client {
    fn reply(&mut self, reply: &Reply, fd: Option<&OwnedFd>) {
        let sent = serde_json::to_vec(reply).map_err(Into::into).and_then(|bytes| send(&self.socket, &bytes, fd));
        // A client that does not take a reply of a few bytes is gone or mad.
        self.closed |= sent.is_err();
    }

    fn refuse(&mut self, message: String) {
        self.reply(&Reply::Refused { message }, None);
        self.closed = true;
    }

    /// The client is gone: so is what it started.
    fn kill(&mut self, channel: &mut Channel) -> Result<()> {
        match self.session.take() {
            Some(session) if session.end.is_none() => {
                channel.send(&Command::ExecSignal { session: session.id, signal: 9 })
            }
            _ => Ok(()),
        }
    }
}

/// Tells the guest that it may send as much again.
pub(crate) fn taken(session: u32, bytes: usize, channel: &mut Channel) -> Result<()> {
    match u32::try_from(bytes) {
        Ok(bytes) if bytes > 0 => channel.send(&Command::Taken { session, bytes }),
        _ => Ok(()),
    }
}

/// Reads once, at most `room` bytes; empty is the end (and an empty input says so to the guest).
pub(crate) fn read_input(fd: BorrowedFd<'_>, room: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0; room.min(DATA_BYTES_MAX)];
    match rustix::io::read(fd, &mut buffer) {
        Ok(count) => buffer.truncate(count),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
        Err(_) => buffer.clear(),
    }
    Some(buffer)
}

fn receive(socket: &OwnedFd) -> rustix::io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let count = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?.bytes;
    let mut fds = VecDeque::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    bytes.truncate(count);
    Ok((bytes, fds.into()))
}

fn send(socket: &OwnedFd, bytes: &[u8], fd: Option<&OwnedFd>) -> Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}
