//! The virtio-console port that carries the channel: non-blocking, with one queue for each direction.

use super::devices;
use super::frame;
use anyhow::{Context, Result, bail};
use contract::channel::{Command, Event};
use contract::guest::CHANNEL_PORT;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// While so much waits to be sent, no more is read from the apps.
const OUTBOX_BYTES_MAX: usize = 512 << 10;

/// The guest's end.
#[derive(Debug)]
pub(super) struct Port {
    file: File,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// So much of `outbox` was sent.
    sent: usize,
}

impl Port {
    /// Opens the port once the driver has learned its name from the host.
    pub(super) fn open() -> Result<Self> {
        let path = devices::wait("the channel's port", find)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
            .with_context(|| format!("open `{}`", path.display()))?;
        Ok(Self { file: fd.into(), inbox: Vec::new(), outbox: Vec::new(), sent: 0 })
    }

    /// Sends the first message. Until the host's end is open the driver answers every read with an end of file and every poll
    /// with a hang-up; only a blocking write waits for it.
    pub(super) fn send_now(&mut self, event: &Event) -> Result<()> {
        let mut bytes = Vec::new();
        frame::encode(event, &mut bytes)?;
        std::io::Write::write_all(&mut self.file, &bytes).context("write to the channel")?;
        rustix::fs::fcntl_setfl(&self.file, OFlags::RDWR | OFlags::NONBLOCK).context("make the channel non-blocking")
    }

    /// Waits for the host's first command, and gives the size of its terminal. The host sends it before the guest boots.
    pub(super) fn start_command(&mut self) -> Result<Option<(u16, u16)>> {
        loop {
            match self.command()? {
                Some(Command::Start { tty, .. }) => return Ok(tty),
                Some(_) => bail!("the host's first command is not `start`"),
                None => {}
            }
            poll_one(&self.file, PollFlags::IN)?;
            self.fill()?;
        }
    }

    /// Queues a message.
    pub(super) fn send(&mut self, event: &Event) -> Result<()> {
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
        frame::encode(event, &mut self.outbox)
    }

    /// Sends `event` after all that is queued, and returns when the host has it.
    pub(super) fn send_last(&mut self, event: &Event) -> Result<()> {
        self.send(event)?;
        while self.sent < self.outbox.len() {
            poll_one(&self.file, PollFlags::OUT)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what the port takes.
    pub(super) fn flush(&mut self) -> Result<()> {
        while self.sent < self.outbox.len() {
            match rustix::io::write(&self.file, &self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("write to the channel"),
            }
        }
        Ok(())
    }

    /// Reads what is there. The host's end closes only when the supervisor is dead, and so the pod.
    pub(super) fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match rustix::io::read(&self.file, &mut buffer) {
                Ok(0) => bail!("the host closed the channel"),
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("read from the channel"),
            }
            if self.inbox.len() >= contract::channel::MESSAGE_BYTES_MAX {
                return Ok(());
            }
        }
    }

    /// The next command that was read.
    pub(super) fn command(&mut self) -> Result<Option<Command>> {
        frame::decode(&mut self.inbox)
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.sent < self.outbox.len() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Whether more may be queued.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() - self.sent < OUTBOX_BYTES_MAX
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn poll_one(file: &File, flags: PollFlags) -> Result<()> {
    match poll(&mut [PollFd::new(file, flags)], None) {
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
