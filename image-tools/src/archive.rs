//! Reading a tar stream that a stranger wrote: ustar, GNU and PAX, one pass, in bounded memory.
//!
//! The `tar` crate is not used for reading, because it buffers PAX and GNU extension headers of any length and lets
//! shapes through that other readers understand differently (a link with a body, a size that is overridden twice). Here
//! every length has a limit, and what two readers could understand differently is refused.

mod header;
mod pax;
mod sparse;

use header::{BLOCK, Block};
use std::io::{self, BufRead};
use thiserror::Error;

/// Longest body of an extension header (PAX records or a GNU long name).
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Why a tar stream was refused.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The stream could not be read.
    #[error("read the archive")]
    Io(#[from] io::Error),
    /// The stream ends within a header or a body.
    #[error("the archive ends in the middle of an entry")]
    Short,
    /// Not a tar, or a tar that readers could understand differently.
    #[error("the archive has {0}")]
    Malformed(String),
    /// More than any sensible archive has.
    #[error("the archive has {0}")]
    Limit(String),
}

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file with a body.
    File,
    /// Another name of an earlier file, [`Entry::link`].
    HardLink,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// May be negative.
    pub secs: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// One entry, without its body.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name as written: not empty, without NUL, otherwise any bytes.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Target of a link as written.
    pub link: Vec<u8>,
    /// Permission bits, `07777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification.
    pub mtime: Time,
    /// Device number.
    pub device: (u32, u32),
    /// Extended attributes, name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file, holes included.
    pub size: u64,
    /// Where the body's bytes go, ascending; absent: from 0 to the end.
    pub sparse: Option<Vec<Segment>>,
}

/// A run of data in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// A tar stream being read.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    /// Bytes of the current body that were not read.
    body: u64,
    /// Bytes of padding after it.
    padding: u64,
    /// Bytes taken from the reader.
    position: u64,
    ended: bool,
}

impl<R: BufRead> Archive<R> {
    /// Starts at the first header.
    pub fn new(reader: R) -> Self {
        Self { reader, body: 0, padding: 0, position: 0, ended: false }
    }

    /// The next entry, or `None` at the end. What was not read of the last body is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_body()?;
        let mut extensions = pax::Extensions::default();
        loop {
            let Some(block) = self.header()? else {
                if extensions.any() {
                    return Err(ArchiveError::Malformed("an extension header without an entry".into()));
                }
                return Ok(None);
            };
            match block.kind_byte() {
                b'x' | b'g' | b'L' | b'K' => {
                    let text = self.extension(&block)?;
                    extensions.take(block.kind_byte(), &text)?;
                }
                _ => return self.entry(&block, extensions).map(Some),
            }
        }
    }

    /// Position of the next unread byte in the stream: after [`Self::next_entry`], where the body begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the current body that were not read.
    pub fn body_len(&self) -> u64 {
        self.body
    }

    /// Hands the body to `sink` in pieces.
    pub fn read_body<E: From<ArchiveError>>(&mut self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.body > 0 {
            let piece = self.reader.fill_buf().map_err(ArchiveError::from)?;
            if piece.is_empty() {
                return Err(ArchiveError::Short.into());
            }
            let len = piece.len().min(usize::try_from(self.body).unwrap_or(usize::MAX));
            sink(&piece[..len])?;
            self.reader.consume(len);
            self.body -= len as u64;
            self.position += len as u64;
        }
        Ok(())
    }

    /// Reads a body of at most `bytes_max` bytes.
    pub fn body_bytes(&mut self, bytes_max: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.body > bytes_max {
            return Err(ArchiveError::Limit(format!("an entry of {} bytes where {bytes_max} are allowed", self.body)));
        }
        let mut bytes = Vec::new();
        self.read_body(|piece| {
            bytes.extend_from_slice(piece);
            Ok::<_, ArchiveError>(())
        })?;
        Ok(bytes)
    }

    /// Reads what follows the end of the archive, so that the reader sees (and hashes) the whole stream.
    pub fn finish(mut self) -> Result<R, ArchiveError> {
        self.skip_body()?;
        loop {
            let len = self.reader.fill_buf()?.len();
            if len == 0 {
                return Ok(self.reader);
            }
            self.reader.consume(len);
        }
    }

    fn skip_body(&mut self) -> Result<(), ArchiveError> {
        self.read_body(|_| Ok::<_, ArchiveError>(()))?;
        self.body = std::mem::take(&mut self.padding);
        match self.read_body(|_| Ok::<_, ArchiveError>(())) {
            // umoci's `insert` ends the stream with the last body; all content is there, and other readers take it.
            Err(ArchiveError::Short) => {
                self.body = 0;
                Ok(())
            }
            result => result,
        }
    }

    /// The next header, or `None` at the end mark or the end of the stream.
    fn header(&mut self) -> Result<Option<Block>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.is_zero() {
            self.ended = true;
            // One block of zeros and then more is where readers disagree about the end.
            return match self.block()? {
                Some(next) if !next.is_zero() => Err(ArchiveError::Malformed("data after half an end mark".into())),
                _ => Ok(None),
            };
        }
        block.check()?;
        Ok(Some(block))
    }

    /// One block, or `None` if the stream ends before it.
    fn block(&mut self) -> Result<Option<Block>, ArchiveError> {
        let mut bytes = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(ArchiveError::Short) };
            }
            let len = piece.len().min(BLOCK - filled);
            bytes[filled..filled + len].copy_from_slice(&piece[..len]);
            self.reader.consume(len);
            filled += len;
            self.position += len as u64;
        }
        Ok(Some(Block(bytes)))
    }

    fn begin_body(&mut self, size: u64) {
        self.body = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn extension(&mut self, block: &Block) -> Result<Vec<u8>, ArchiveError> {
        self.begin_body(block.size()?);
        let text = self.body_bytes(EXTENSION_BYTES_MAX)?;
        self.skip_body()?;
        Ok(text)
    }

    fn entry(&mut self, block: &Block, extensions: pax::Extensions) -> Result<Entry, ArchiveError> {
        let pax = extensions.finish()?;
        let size = pax.size.map_or_else(|| block.size(), Ok)?;
        let path = pax.path.unwrap_or_else(|| block.path());
        let link = pax.link.unwrap_or_else(|| block.link());
        let kind = block.kind(&path)?;
        if path.is_empty() || path.contains(&0) || link.contains(&0) {
            return Err(ArchiveError::Malformed("an entry with an empty name or a name with a NUL byte".into()));
        }
        if kind != Kind::File && size != 0 {
            // Some readers skip this many bytes and some do not.
            return Err(ArchiveError::Malformed(format!("a body after `{}`, which is no file", path.escape_ascii())));
        }
        self.begin_body(size);
        let (size, sparse) = match (block.kind_byte(), pax.sparse) {
            (b'S', None) => self.gnu_sparse(block)?,
            (b'S', Some(_)) => return Err(ArchiveError::Malformed("a file that is sparse in two ways".into())),
            (_, Some(sparse)) if kind == Kind::File => self.pax_sparse(sparse)?,
            _ => (size, None),
        };
        let device = if matches!(kind, Kind::Character | Kind::Block) { block.device()? } else { (0, 0) };
        let mtime = pax.mtime.map_or_else(|| block.mtime(), Ok)?;
        let uid = pax.uid.map_or_else(|| block.uid(), Ok)?;
        let gid = pax.gid.map_or_else(|| block.gid(), Ok)?;
        let mode = block.mode()?;
        Ok(Entry { path, kind, link, mode, uid, gid, mtime, device, xattrs: pax.xattrs, size, sparse })
    }

    fn gnu_sparse(&mut self, block: &Block) -> Result<(u64, Option<Vec<Segment>>), ArchiveError> {
        let mut map = sparse::Map::from_header(block)?;
        while map.continues {
            let more = self.block()?.ok_or(ArchiveError::Short)?;
            map.extend(&more)?;
        }
        map.finish(self.body).map(|(size, segments)| (size, Some(segments)))
    }

    fn pax_sparse(&mut self, declared: pax::Sparse) -> Result<(u64, Option<Vec<Segment>>), ArchiveError> {
        let pax::Sparse { real_size, map } = declared;
        let segments = match map {
            Some(segments) => segments,
            // Version 1.0: the map is the first part of the body, padded to a block.
            None => {
                let mut parser = sparse::Lines::default();
                while !parser.complete()? {
                    if self.body < BLOCK as u64 {
                        return Err(ArchiveError::Malformed("a sparse map longer than its entry".into()));
                    }
                    let block = self.block()?.ok_or(ArchiveError::Short)?;
                    self.body -= BLOCK as u64;
                    parser.push(&block.0)?;
                }
                parser.finish()?
            }
        };
        sparse::check(&segments, real_size, self.body)?;
        Ok((real_size, Some(segments)))
    }
}

#[cfg(test)]
mod tests;
