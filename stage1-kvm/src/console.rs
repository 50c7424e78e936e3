//! What `--debug` shows of the guest's console. It is the guest's text: it must neither command the caller's terminal nor fill
//! the log of the host.

use contract::text::is_unsafe;
use std::io::Write;

/// Most that one run shows.
const SHOWN_BYTES_MAX: usize = 4 << 20;

/// The console, as far as it was shown.
#[derive(Debug)]
pub(crate) struct Console {
    left: usize,
}

impl Default for Console {
    fn default() -> Self {
        Self { left: SHOWN_BYTES_MAX }
    }
}

impl Console {
    /// Shows what the guest printed.
    pub(crate) fn show(&mut self, bytes: &[u8], out: &mut impl Write) {
        let bytes = &bytes[..bytes.len().min(self.left)];
        self.left -= bytes.len();
        let text = String::from_utf8_lossy(bytes);
        let shown: String = text.chars().filter(|letter| *letter == '\n' || !is_unsafe(*letter)).collect();
        let _ = out.write_all(shown.as_bytes()); // A console that nobody reads loses its text, not its pod.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_without_what_commands_a_terminal() {
        let mut out = Vec::new();
        Console::default().show("[1.0] init\r\n\x1b[2Jx\x07\u{fffd}\u{202e}\n".as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "[1.0] init\n[2Jx\u{fffd}\n");
    }

    #[test]
    fn a_flood_has_an_end() {
        let mut console = Console::default();
        let mut out = Vec::new();
        for _ in 0..2 * SHOWN_BYTES_MAX / 1000 {
            console.show(&[b'x'; 1000], &mut out);
        }
        assert_eq!(out.len(), SHOWN_BYTES_MAX);
    }
}
