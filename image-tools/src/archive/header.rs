//! The 512 bytes of a tar header.

use super::{ArchiveError, Kind, Time};

/// Size of a header, and what bodies are padded to.
pub(super) const BLOCK: usize = 512;

/// A header as it stands in the stream.
#[derive(Debug)]
pub(super) struct Block(pub(super) [u8; BLOCK]);

impl Block {
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The checksum counts its own field as spaces.
    pub(super) fn check(&self) -> Result<(), ArchiveError> {
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let actual = sum(&self.0[..148]) + 8 * u64::from(b' ') + sum(&self.0[156..]);
        if number(&self.0[148..156]) == Some(i128::from(actual)) {
            return Ok(());
        }
        Err(ArchiveError::Malformed("a header with a wrong checksum; it may not be a tar".into()))
    }

    pub(super) fn kind_byte(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn kind(&self, path: &[u8]) -> Result<Kind, ArchiveError> {
        Ok(match self.kind_byte() {
            // Before POSIX, a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            b'0' if path.ends_with(b"/") => {
                return Err(ArchiveError::Malformed(format!("a file named `{}`", path.escape_ascii())));
            }
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let kind = other.escape_ascii();
                return Err(ArchiveError::Malformed(format!("an entry of the unknown type `{kind}`")));
            }
        })
    }

    fn is_posix(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if self.is_posix() { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, ArchiveError> {
        self.field("size", 124, 12)
    }

    pub(super) fn mode(&self) -> Result<u32, ArchiveError> {
        self.field::<u32>("mode", 100, 8).map(|mode| mode & 0o7777)
    }

    pub(super) fn uid(&self) -> Result<u32, ArchiveError> {
        self.field("uid", 108, 8)
    }

    pub(super) fn gid(&self) -> Result<u32, ArchiveError> {
        self.field("gid", 116, 8)
    }

    pub(super) fn mtime(&self) -> Result<Time, ArchiveError> {
        self.field("mtime", 136, 12).map(|secs| Time { secs, nanos: 0 })
    }

    pub(super) fn device(&self) -> Result<(u32, u32), ArchiveError> {
        Ok((self.field("device number", 329, 8)?, self.field("device number", 337, 8)?))
    }

    pub(super) fn field<T: TryFrom<i128>>(&self, what: &str, start: usize, len: usize) -> Result<T, ArchiveError> {
        let value = number(&self.0[start..start + len]).and_then(|value| T::try_from(value).ok());
        value.ok_or_else(|| ArchiveError::Malformed(format!("an entry with an impossible {what}")))
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between blanks, or the base-256 form of GNU for numbers that are too long. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i128> {
    match field.first()? {
        first if first & 0x80 != 0 => {
            // The bit above is the mark, the next one is the sign.
            let negative = first & 0x40 != 0;
            let start = if negative { -1_i128 } else { 0 };
            let value = field.iter().enumerate().fold(start, |value, (index, byte)| {
                let byte = if index == 0 && !negative { byte & 0x7f } else { *byte };
                value << 8 | i128::from(byte)
            });
            Some(value)
        }
        _ => {
            let digits = field.split(|byte| *byte == 0).next()?.trim_ascii();
            let good = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
            good.then(|| digits.iter().fold(0, |value, digit| value << 3 | i128::from(digit - b'0')))
        }
    }
}
