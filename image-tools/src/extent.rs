//! A range of a file: a blob in a directory, or a member of an uncompressed archive, read in place.

use crate::archive::{Archive, ArchiveError, Kind};
use crate::compression::Compression;
use crate::limits::Limits;
use crate::unpack::normalize_path;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A range of an open file. Readers are independent of each other, so layers are read in parallel.
#[derive(Clone, Debug)]
pub struct Extent {
    file: Arc<File>,
    offset: u64,
    length: u64,
}

impl Extent {
    /// The whole of `file`, which must be regular.
    pub fn whole(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { file: Arc::new(file), offset: 0, length: metadata.len() })
    }

    /// Opens a regular file; a FIFO is refused rather than waited for.
    pub fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        Self::whole(File::options().read(true).custom_flags(nonblock).open(path)?)
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A part of it.
    fn part(&self, offset: u64, length: u64) -> Self {
        Self { file: Arc::clone(&self.file), offset: self.offset + offset, length }
    }

    /// Reads from `offset` to the end.
    pub fn reader_from(&self, offset: u64) -> ExtentReader {
        let offset = offset.min(self.length);
        ExtentReader { file: Arc::clone(&self.file), offset: self.offset + offset, left: self.length - offset }
    }

    /// All bytes, if there are at most `bytes_max`.
    pub fn bytes(&self, bytes_max: u64) -> io::Result<Vec<u8>> {
        if self.length > bytes_max {
            let text = format!("{} bytes where at most {bytes_max} are allowed", self.length);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.length).unwrap_or(0));
        self.reader_from(0).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == self.length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Copies it to `out` within the kernel where that is possible.
    pub fn copy_to(&self, mut out: &File) -> io::Result<()> {
        use std::io::Seek;
        // A file of its own, because the offset of a shared one belongs to all readers.
        let mut file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*self.file)))?;
        file.seek(io::SeekFrom::Start(self.offset))?;
        let copied = io::copy(&mut file.take(self.length), &mut out)?;
        if copied == self.length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// How its content seems to be compressed.
    pub fn compression(&self) -> io::Result<Compression> {
        let mut start = [0; 6];
        let mut filled = 0;
        let mut reader = self.reader_from(0);
        while filled < start.len() {
            match reader.read(&mut start[filled..])? {
                0 => break,
                len => filled += len,
            }
        }
        Ok(Compression::detect(&start[..filled]))
    }

    /// Its plain content: itself, or an unnamed temporary file.
    pub fn decompressed(&self, limits: &Limits) -> io::Result<Self> {
        let compression = self.compression()?;
        if compression == Compression::None {
            return Ok(self.clone());
        }
        let reader = BufReader::with_capacity(256 << 10, self.reader_from(0));
        let bytes_max = limits.bytes.min(self.length.saturating_mul(limits.ratio).max(Limits::RATIO_FREE_BYTES));
        let mut plain = compression.decoder(reader)?.take(bytes_max + 1);
        let mut file = unnamed_file(&std::env::temp_dir())?;
        let copied = io::copy(&mut plain, &mut file)?;
        if copied > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it decompresses to more than is allowed"));
        }
        file.flush()?;
        Self::whole(file)
    }
}

/// A file without a name: it goes when the process goes.
pub(crate) fn unnamed_file(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600))?.into())
}

/// Reads an extent without moving anybody else's position.
#[derive(Debug)]
pub struct ExtentReader {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for ExtentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..len], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Most members of an archive that holds an image.
const MEMBERS_MAX: usize = 20_000;
/// Longest chain of links between members.
const LINKS_MAX: usize = 8;

/// The members of an archive by name.
#[derive(Debug)]
pub struct Members {
    files: BTreeMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    File(Extent),
    /// To another member, as `docker save` once wrote for layers that are twice in an image.
    Link(Vec<u8>),
}

impl Members {
    /// Reads the headers and skips the bodies.
    pub fn index(archive: &Extent) -> Result<Self, ArchiveError> {
        let limits = Limits::default();
        let mut files = BTreeMap::new();
        let mut position = 0;
        loop {
            // A new reader for each header: seeking is cheaper than reading what is in between.
            let mut reader = Archive::new(BufReader::with_capacity(2 << 10, archive.reader_from(position)));
            let Some(entry) = reader.next_entry()? else { break };
            let (start, len) = (position + reader.position(), reader.body_len());
            let name = normalize_path(&entry.path, &limits).map_err(|why| {
                ArchiveError::Malformed(format!("a member `{}` that {why}", entry.path.escape_ascii()))
            })?;
            let member = match entry.kind {
                Kind::File if entry.sparse.is_none() => Some(Member::File(archive.part(start, len))),
                Kind::Symlink => Some(Member::Link(sibling(&name, &entry.link))),
                Kind::HardLink => Some(Member::Link(entry.link.clone())),
                Kind::Directory => None,
                _ => {
                    let name = name.escape_ascii();
                    return Err(ArchiveError::Malformed(format!("a member `{name}` of a kind that no image has")));
                }
            };
            if let Some(member) = member
                && files.insert(name.clone(), member).is_some()
            {
                return Err(ArchiveError::Malformed(format!("two members named `{}`", name.escape_ascii())));
            }
            if files.len() > MEMBERS_MAX {
                return Err(ArchiveError::Limit(format!("more than {MEMBERS_MAX} members")));
            }
            position = (start + len).next_multiple_of(512);
            if start + len > archive.len() {
                return Err(ArchiveError::Short);
            }
        }
        Ok(Self { files })
    }

    /// The file of this name; links are followed within the archive.
    pub fn get(&self, name: &str) -> Option<Extent> {
        let mut name = normalize_path(name.as_bytes(), &Limits::default()).ok()?;
        for _ in 0..LINKS_MAX {
            match self.files.get(&name)? {
                Member::File(extent) => return Some(extent.clone()),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

/// `link` as seen from the directory of `name`; `..` at the top stays there.
fn sibling(name: &[u8], link: &[u8]) -> Vec<u8> {
    let mut components: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    components.pop();
    for component in link.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            other => components.push(other),
        }
    }
    components.join(&b'/')
}
