//! The virtio-console port that carries the channel: how it is found and opened, and the words before the bridge takes over.

use super::devices;
use anyhow::{Context, Result, bail};
use contract::channel::{Command, Event};
use contract::guest::CHANNEL_PORT;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use wire::frame::Frame;
use wire::mux::{Mux, Token};

/// Opens the port once the driver has learned its name from the host, and sends the first message. Until the host's end is open
/// the driver answers every read with an end of file and every poll with a hang-up; only a blocking write waits for it.
pub(super) fn open(first: &Event) -> Result<Mux> {
    let path = devices::wait("the channel's port", find)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .with_context(|| format!("open `{}`", path.display()))?;
    let mut file = File::from(fd);
    let mut bytes = Vec::new();
    Frame::Message(serde_json::to_vec(first)?).encode(&mut bytes)?;
    file.write_all(&bytes).context("write to the channel")?;
    rustix::fs::fcntl_setfl(&file, OFlags::RDWR | OFlags::NONBLOCK).context("make the channel non-blocking")?;
    Ok(Mux::new(file.into()))
}

/// The next command that has come.
pub(super) fn command(port: &mut Mux) -> Result<Option<Command>> {
    let json = port.receive()?;
    json.map(|json| serde_json::from_slice(&json).context("understand a command of the host")).transpose()
}

/// Waits for the host's first command, and gives the size of its terminal. The host sends it before the guest boots.
pub(super) fn start_command(port: &mut Mux) -> Result<Option<(u16, u16)>> {
    loop {
        match command(port)? {
            Some(Command::Start { tty, .. }) => return Ok(tty),
            Some(_) => bail!("the host's first command is not `start`"),
            None => {}
        }
        wait(port, PollFlags::IN)?;
        fill(port, PollFlags::IN)?;
    }
}

/// Reads what has come. The host's end closes only when the supervisor is dead, and so the pod.
pub(super) fn fill(port: &mut Mux, flags: PollFlags) -> Result<()> {
    port.ready(Token::Channel, flags)?;
    if port.is_open() { Ok(()) } else { bail!("the host closed the channel") }
}

/// Sends `event` after all that is queued, and returns when the host has it.
pub(super) fn send_last(port: &mut Mux, event: &Event) -> Result<()> {
    port.send(event)?;
    while !port.is_sent() {
        wait(port, PollFlags::OUT)?;
        port.ready(Token::Channel, PollFlags::OUT)?;
    }
    Ok(())
}

fn wait(port: &Mux, flags: PollFlags) -> Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(port.as_fd(), flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("wait for the channel"),
    }
}

/// `/sys/class/virtio-ports/vportNpM/name` names the device node `/dev/vportNpM`.
fn find() -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = std::fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == CHANNEL_PORT).then(|| PathBuf::from("/dev").join(port.file_name()))
    })
}
