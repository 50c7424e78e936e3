//! virtio-console (virtio 1.2, 5.3) with one named port: the channel between stage2 and the supervisor. The supervisor
//! reads frames from the other end of a socket; here they are bytes. What the guest sends and the supervisor does not take stays
//! in the guest's ring, so a flood fills no memory of the host.

use super::device::{ActivatedQueues, Device, read_space, refuse};
use anyhow::{Context, Result};
use contract::guest::CHANNEL_PORT;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_queue::{Reader, Writer};

/// `linux/virtio_console.h`
const VIRTIO_CONSOLE_F_MULTIPORT: u32 = 1;
/// Queues: of port 0, then of control.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;

const VIRTIO_CONSOLE_DEVICE_READY: u16 = 0;
const VIRTIO_CONSOLE_PORT_ADD: u16 = 1;
const VIRTIO_CONSOLE_PORT_READY: u16 = 3;
const VIRTIO_CONSOLE_PORT_OPEN: u16 = 6;
const VIRTIO_CONSOLE_PORT_NAME: u16 = 7;

/// A driver that asks more often than it takes answers gets no more.
const ANSWERS_MAX: usize = 16;
/// The longest buffer that is sent or filled at once.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// The device.
#[derive(Debug)]
pub(super) struct Console {
    stream: UnixStream,
    /// stage2 has the port open. Linux throws away what comes before that.
    open: bool,
    /// Control messages for the driver.
    answers: VecDeque<Vec<u8>>,
    /// What the driver sent and the stream did not take yet.
    outgoing: Vec<u8>,
}

impl Console {
    /// A port whose other end is `stream`.
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(true).context("set up the guest's channel")?;
        Ok(Self { stream, open: false, answers: VecDeque::new(), outgoing: Vec::new() })
    }

    /// Sends what waits, then takes more from the driver as long as all of it goes out.
    fn transmit(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        while self.flush()? {
            let Some(chain) = active.next(TRANSMIT)? else { return Ok(()) };
            let head = chain.head_index();
            let mut reader: Reader<'_> = chain.reader(active.memory)?;
            let length = reader.available_bytes();
            if length > BUFFER_BYTES_MAX {
                return refuse();
            }
            self.outgoing.resize(length, 0);
            reader.read_exact(&mut self.outgoing)?;
            active.give_back(TRANSMIT, head, 0)?;
        }
        Ok(())
    }

    /// Whether all is out.
    fn flush(&mut self) -> Result<bool> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Fills the driver's buffers with what the stream has.
    fn receive(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if !self.open {
            return Ok(());
        }
        let mut buffer = [0; 16 << 10];
        while let Some(chain) = active.next(RECEIVE)? {
            let head = chain.head_index();
            let mut writer: Writer<'_> = chain.writer(active.memory)?;
            let room = writer.available_bytes().min(buffer.len());
            if room == 0 {
                return refuse();
            }
            match self.stream.read(&mut buffer[..room]) {
                // The supervisor is gone, and we follow.
                Ok(0) => {
                    active.put_back(RECEIVE);
                    return Ok(());
                }
                Ok(count) => {
                    writer.write_all(&buffer[..count])?;
                    active.give_back(RECEIVE, head, u32::try_from(count)?)?;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    active.put_back(RECEIVE);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What the driver says about the device and its port.
    fn control(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        while let Some(chain) = active.next(CONTROL_TRANSMIT)? {
            let head = chain.head_index();
            let mut message = [0; 8];
            let mut reader: Reader<'_> = chain.reader(active.memory)?;
            reader.read_exact(&mut message)?;
            active.give_back(CONTROL_TRANSMIT, head, 0)?;
            let [.., event_low, event_high, value_low, value_high] = message;
            let value = u16::from_le_bytes([value_low, value_high]);
            match (u16::from_le_bytes([event_low, event_high]), value) {
                (VIRTIO_CONSOLE_DEVICE_READY, 1) => self.answer(VIRTIO_CONSOLE_PORT_ADD, 1, b""),
                (VIRTIO_CONSOLE_PORT_READY, 1) => {
                    self.answer(VIRTIO_CONSOLE_PORT_NAME, 1, CHANNEL_PORT.as_bytes());
                    self.answer(VIRTIO_CONSOLE_PORT_OPEN, 1, b"");
                }
                (VIRTIO_CONSOLE_PORT_OPEN, value) => self.open = value == 1,
                _ => {}
            }
        }
        self.send_answers(active)?;
        if active.is_ready(RECEIVE) { self.receive(active) } else { Ok(()) }
    }

    fn answer(&mut self, event: u16, value: u16, tail: &[u8]) {
        if self.answers.len() < ANSWERS_MAX {
            let port = 0_u32;
            self.answers
                .push_back([&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), tail].concat());
        }
    }

    fn send_answers(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        while let Some(answer) = self.answers.front() {
            let Some(chain) = active.next(CONTROL_RECEIVE)? else { return Ok(()) };
            let head = chain.head_index();
            let mut writer: Writer<'_> = chain.writer(active.memory)?;
            writer.write_all(answer)?;
            active.give_back(CONTROL_RECEIVE, head, u32::try_from(answer.len())?)?;
            self.answers.pop_front();
        }
        Ok(())
    }
}

impl Device for Console {
    fn kind(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_CONSOLE_F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 64, 16, 16]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        // Columns and rows: none; one port.
        read_space(&[0, 0, 0, 0, 1, 0, 0, 0], offset, data);
    }

    fn reset(&mut self) {
        self.answers.clear();
        self.open = false;
    }

    fn notified(&mut self, queue: usize, active: &mut ActivatedQueues<'_>) -> Result<()> {
        match queue {
            RECEIVE => self.receive(active),
            TRANSMIT => self.transmit(active),
            CONTROL_RECEIVE => self.send_answers(active),
            _ => self.control(active),
        }
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }

    fn host_ready(&mut self, active: &mut ActivatedQueues<'_>) -> Result<()> {
        if active.is_ready(TRANSMIT) {
            self.transmit(active)?;
        }
        if active.is_ready(RECEIVE) {
            self.receive(active)?;
        }
        Ok(())
    }
}
