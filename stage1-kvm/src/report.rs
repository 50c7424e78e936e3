//! What comes out of the pipe of a machine: the guest's console, and the words of qemu, of a virtiofsd and of our own processes.
//! The last line of sense says why a machine ended.

use crate::console::Console;
use anyhow::{Context, Result};
use contract::pod::Pod;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is kept.
const REPORT_BYTES_MAX: usize = 8 << 10;

/// The pipe, and what has come out of it.
#[derive(Debug)]
pub(crate) struct Report {
    pipe: OwnedFd,
    open: bool,
    text: Vec<u8>,
    /// With `--debug`.
    console: Option<Console>,
}

impl Report {
    /// `pipe` is the reading end.
    pub(crate) fn new(pipe: OwnedFd, pod: &Pod) -> Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true).context("set up the machine's report")?;
        let debug = pod.machine.as_ref().is_some_and(|machine| machine.debug);
        Ok(Self { pipe, open: true, text: Vec::new(), console: debug.then(Console::default) })
    }

    /// For poll, until its end.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.pipe.as_fd())
    }

    /// Reads once; false if nothing is there now.
    pub(crate) fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.pipe, &mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => {
                if let Some(console) = &mut self.console {
                    console.show(&buffer[..count], &mut std::io::stderr());
                }
                self.text.extend(&buffer[..count]);
                // The last words count.
                let beyond = self.text.len().saturating_sub(REPORT_BYTES_MAX);
                self.text.drain(..beyond);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error).context("read from the hypervisor"),
        }
        Ok(self.open)
    }

    /// Why it ended: what the guest's init or its kernel says of its end, else whatever came last.
    pub(crate) fn reason(&mut self) -> Option<String> {
        while self.read().is_ok_and(|more| more) {}
        let text = String::from_utf8_lossy(&self.text);
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint: "));
        let tells = |line: &&str| line.contains("stage2: guest: ") || line.contains("Kernel panic - not syncing");
        let line = lines().rfind(tells).or(lines().next_back())?;
        Some(line.strip_prefix("pod: run: ").unwrap_or(line).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_tells_is_found() {
        for (text, reason) in [
            ("", None),
            ("\n \n", None),
            ("qemu: no such device\n", Some("qemu: no such device")),
            ("pod: run: open it: no\nhint: do that\n", Some("open it: no")),
            ("[1.0] Kernel panic - not syncing: x\n[1.1] Rebooting\n", Some("[1.0] Kernel panic - not syncing: x")),
        ] {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&writer, text.as_bytes()).unwrap();
            drop(writer);
            rustix::io::ioctl_fionbio(&reader, true).unwrap();
            let mut report = Report { pipe: reader, open: true, text: Vec::new(), console: None };
            assert_eq!(report.reason().as_deref(), reason, "{text}");
        }
    }
}
