//! The I/O ports: power-off, reset, and the serial port of `--debug`. Every other port reads as ones and swallows writes, quietly,
//! because a kernel probes for what a PC once had.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// First port of COM1.
pub(super) const SERIAL: u16 = 0x3f8;
/// Its interrupt.
pub(super) const SERIAL_INTERRUPT: u32 = 4;
/// ACPI sleep control register.
pub(super) const SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub(super) const SLEEP_STATUS: u16 = 0x601;
/// ACPI reset register.
pub(super) const RESET: u16 = 0x602;
/// What resets.
pub(super) const RESET_VALUE: u8 = 1;
/// `SLP_TYP` of soft-off.
pub(super) const SLEEP_TYPE_OFF: u8 = 5;
/// Sleep control: go.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Command port of the keyboard controller, whose reset line the kernel pulls by `reboot=k`.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
/// Most that one run prints: a guest must not fill the log of its host.
const SERIAL_BYTES_MAX: u64 = 4 << 20;

/// What a write asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// Go on.
    On,
    /// The guest switched itself off.
    Off,
    /// The guest wants a reset. There is none: a pod that is started again is a new machine.
    Reset,
}

/// The serial port's interrupt.
#[derive(Debug)]
pub(super) struct Line(pub(super) vmm_sys_util::eventfd::EventFd);

impl Trigger for Line {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// All ports.
pub(super) struct Ports {
    serial: Option<Mutex<Serial<Line, NoEvents, Capped>>>,
}

impl Ports {
    /// `serial`: where the console goes, and the port's interrupt.
    pub(super) fn new(serial: Option<(File, Line)>) -> Self {
        let serial = serial.map(|(out, line)| Mutex::new(Serial::new(line, Capped { out, left: SERIAL_BYTES_MAX })));
        Self { serial }
    }

    /// A CPU reads `data.len()` bytes.
    pub(super) fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let ([byte], Some(offset), Some(serial)) = (&mut *data, serial_offset(port), &self.serial)
            && let Ok(mut serial) = serial.lock()
        {
            *byte = serial.read(offset);
        }
        if let (KEYBOARD | SLEEP_STATUS, [byte]) = (port, data) {
            *byte = 0; // Never busy, never woken.
        }
    }

    /// A CPU writes `data`.
    pub(super) fn write(&self, port: u16, data: &[u8]) -> Power {
        let [byte] = *data else { return Power::On };
        if let (Some(offset), Some(serial)) = (serial_offset(port), &self.serial)
            && let Ok(mut serial) = serial.lock()
        {
            let _ = serial.write(offset, byte); // A console that nobody reads loses its text, not its machine.
        }
        match (port, byte) {
            (SLEEP_CONTROL, _) if byte == SLEEP_ENABLE | SLEEP_TYPE_OFF << 2 => Power::Off,
            (RESET, RESET_VALUE) | (KEYBOARD, KEYBOARD_RESET) => Power::Reset,
            _ => Power::On,
        }
    }
}

fn serial_offset(port: u16) -> Option<u8> {
    port.checked_sub(SERIAL).filter(|offset| *offset < 8).and_then(|offset| u8::try_from(offset).ok())
}

/// The console's way out, with an end.
#[derive(Debug)]
struct Capped {
    out: File,
    left: u64,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = bytes.len() as u64;
        if length <= self.left {
            self.left -= length;
            // Escapes in the console's text would act on the caller's terminal.
            let clean: Vec<u8> = bytes
                .iter()
                .map(|byte| if matches!(byte, b'\n' | b'\r' | b'\t' | b' '..=b'~') { *byte } else { b'?' })
                .collect();
            self.out.write_all(&clean)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn power() {
        let ports = Ports::new(None);
        for (port, byte, power) in [
            (SLEEP_CONTROL, 0x34, Power::Off),
            (SLEEP_CONTROL, 0x14, Power::On),
            (RESET, 1, Power::Reset),
            (RESET, 0, Power::On),
            (0x64, 0xfe, Power::Reset),
            (0x80, 0xfe, Power::On),
        ] {
            assert_eq!(ports.write(port, &[byte]), power);
        }
        assert_eq!(ports.write(RESET, &[1, 1]), Power::On);
    }

    proptest! {
        #[test]
        fn any_port_any_width(port in any::<u16>(), mut data in prop::collection::vec(any::<u8>(), 1..8)) {
            let null = File::options().write(true).open("/dev/null").unwrap();
            let line = Line(vmm_sys_util::eventfd::EventFd::new(0).unwrap());
            let ports = Ports::new(Some((null, line)));
            ports.write(port, &data);
            ports.read(port, &mut data);
        }
    }
}
