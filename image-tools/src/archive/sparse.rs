//! Maps of sparse files: the old GNU form in headers, and the PAX forms.

use super::header::{BLOCK, Block, number};
use super::{ArchiveError, Segment};

/// Most runs of data in one file.
pub(super) const SEGMENTS_MAX: usize = 1 << 16;

/// The old GNU map: four entries in the header, 21 in each block that continues it.
#[derive(Debug)]
pub(super) struct Map {
    real_size: u64,
    segments: Vec<Segment>,
    pub(super) continues: bool,
}

fn malformed() -> ArchiveError {
    ArchiveError::Malformed("a malformed sparse map".into())
}

impl Map {
    pub(super) fn from_header(block: &Block) -> Result<Self, ArchiveError> {
        let real_size = block.field("size", 483, 12)?;
        let mut map = Self { real_size, segments: Vec::new(), continues: false };
        map.entries(&block.0[386..482], block.0[482])?;
        Ok(map)
    }

    pub(super) fn extend(&mut self, block: &Block) -> Result<(), ArchiveError> {
        self.entries(&block.0[..504], block.0[504])
    }

    fn entries(&mut self, fields: &[u8], continues: u8) -> Result<(), ArchiveError> {
        self.continues = continues != 0;
        for field in fields.chunks_exact(24) {
            // An empty field ends the map.
            if field[12] == 0 {
                break;
            }
            let part = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(malformed);
            self.segments.push(Segment { offset: part(&field[..12])?, length: part(&field[12..])? });
        }
        if self.segments.len() > SEGMENTS_MAX { Err(malformed()) } else { Ok(()) }
    }

    pub(super) fn finish(self, body: u64) -> Result<(u64, Vec<Segment>), ArchiveError> {
        check(&self.segments, self.real_size, body)?;
        Ok((self.real_size, self.segments))
    }
}

/// Ascending, inside the file, and exactly as long as the body.
pub(super) fn check(segments: &[Segment], real_size: u64, body: u64) -> Result<(), ArchiveError> {
    let mut end = 0_u64;
    let mut data = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err(malformed());
        }
        end = segment.offset.checked_add(segment.length).ok_or_else(malformed)?;
        data += segment.length;
    }
    if end > real_size || data != body { Err(malformed()) } else { Ok(()) }
}

/// The map of PAX version 1.0: decimal numbers on lines, the count of segments first, padded to a block.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: Vec<u8>,
    numbers: Vec<u64>,
    /// Bytes of `text` that are in `numbers`.
    parsed: usize,
}

impl Lines {
    pub(super) fn push(&mut self, block: &[u8; BLOCK]) -> Result<(), ArchiveError> {
        self.text.extend_from_slice(block);
        while let Some(len) = self.text[self.parsed..].iter().position(|byte| *byte == b'\n') {
            if self.complete()? {
                break;
            }
            let line = &self.text[self.parsed..self.parsed + len];
            self.numbers.push(decimal(line).ok_or_else(malformed)?);
            self.parsed += len + 1;
        }
        // A number has at most 20 digits.
        if !self.complete()? && self.text.len() - self.parsed > 32 { Err(malformed()) } else { Ok(()) }
    }

    pub(super) fn complete(&self) -> Result<bool, ArchiveError> {
        match self.numbers.first() {
            None => Ok(false),
            Some(count) if *count > SEGMENTS_MAX as u64 => Err(malformed()),
            Some(count) => Ok(self.numbers.len() as u64 > 2 * count),
        }
    }

    pub(super) fn finish(self) -> Result<Vec<Segment>, ArchiveError> {
        let pairs = self.numbers[1..].chunks_exact(2);
        Ok(pairs.map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
    }
}

/// Digits only: no sign, no blanks.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
