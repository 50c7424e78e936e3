//! Two threads for one layer: the first reads, hashes, keeps and decompresses, the second hashes and unpacks.
//!
//! Memory is bounded by a few buffers, however long the layer is.

use crate::compression::Compression;
use crate::digest::{Digest, Hasher};
use crate::limits::Limits;
use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use thiserror::Error;

/// Large, because each hand-over may wait for a processor; two layers at a time need 8 MiB.
const BUFFER_BYTES: usize = 1 << 20;
const BUFFERS: usize = 4;

/// What a compressed blob must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Its digest, if anybody said.
    pub digest: Option<Digest>,
    /// Its size, if anybody said.
    pub size: Option<u64>,
    /// The digest of its plain content, if anybody said.
    pub diff_id: Option<Digest>,
    /// How it is said to be compressed.
    pub compression: Compression,
}

/// What a compressed blob turned out to be.
#[derive(Clone, Copy, Debug)]
pub struct Actual {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob.
    pub size: u64,
    /// Digest of its plain content.
    pub diff_id: Digest,
    /// Size of its plain content.
    pub plain_size: u64,
}

/// Why a blob was refused.
#[derive(Debug, Error)]
pub enum BlobError {
    /// It could not be read.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// Its compressed form could not be written to the store.
    #[error("write the layer")]
    Keep(#[source] io::Error),
    /// It could not be decompressed.
    #[error("decompress the layer")]
    Decompress(#[source] io::Error),
    /// It goes on after the size that was declared.
    #[error("the layer is longer than the {0} bytes that its manifest says")]
    Long(u64),
    /// It ends before the size that was declared.
    #[error("the layer has {1} bytes, its manifest says {0}")]
    Short(u64, u64),
    /// It is other bytes than declared.
    #[error("the layer has the digest {1}, its manifest says {0}")]
    Digest(Digest, Digest),
    /// It decompresses to other bytes than declared.
    #[error("the uncompressed layer has the digest {1}, the image configuration says {0}")]
    DiffId(Digest, Digest),
    /// A bomb.
    #[error("the layer has {0}")]
    Limit(String),
}

/// Passes bytes on, and hashes, counts and bounds them.
struct Tap<'a, R> {
    reader: R,
    hasher: Hasher,
    size: u64,
    size_max: Option<u64>,
    keep: &'a mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    failure: Option<BlobError>,
}

impl<R: Read> Read for Tap<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer).inspect_err(|error| {
            self.failure = Some(BlobError::Read(io::Error::new(error.kind(), error.to_string())));
        })?;
        self.size += len as u64;
        if let Some(size_max) = self.size_max.filter(|size_max| self.size > *size_max) {
            self.failure = Some(BlobError::Long(size_max));
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.hasher.update(&buffer[..len]);
        if let Err(error) = (self.keep)(&buffer[..len]) {
            self.failure = Some(BlobError::Keep(error));
            return Err(io::ErrorKind::Other.into());
        }
        Ok(len)
    }
}

/// Runs `reader` through the decoder into `consume`, on two threads. `keep` sees the compressed bytes as they come.
///
/// The result of `consume` counts only if the blob was what it should be; a failure of the reading side is told first,
/// because a broken stream makes the consumer fail too.
pub fn run<T, E: From<BlobError>>(
    expected: Expected,
    limits: &Limits,
    reader: impl Read + Send,
    keep: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    consume: impl FnOnce(&mut Consumer) -> Result<T, E>,
) -> Result<(T, Actual), E> {
    let (full_sender, full) = sync_channel(BUFFERS - 2);
    let (empty, empty_receiver) = channel();
    std::thread::scope(|scope| {
        let producer = scope.spawn(move || produce(expected, limits, reader, keep, &full_sender, &empty_receiver));
        // A plain blob is its own content, and is hashed once.
        let hasher = (expected.compression != Compression::None).then(Hasher::default);
        let mut consumer = Consumer { full, empty, buffer: Vec::new(), used: 0, hasher, size: 0 };
        let result = consume(&mut consumer);
        if result.is_ok() {
            consumer.drain();
        }
        let Consumer { hasher, size: plain_size, full, .. } = consumer;
        drop(full);
        let produced = producer.join().expect("the producer does not panic");
        let (digest, size) = match (produced, &result) {
            (Err(Stop::Failed(error)), _) => return Err(error.into()),
            (Err(Stop::Unwanted), Ok(_)) => unreachable!("a consumer that drained took all buffers"),
            (Err(Stop::Unwanted), Err(_)) => return result.map(|_| unreachable!("it is an error")),
            (Ok(produced), _) => produced,
        };
        let value = result?;
        let diff_id = hasher.map_or(digest, Hasher::finish);
        match expected.diff_id {
            Some(expected) if expected != diff_id => Err(BlobError::DiffId(expected, diff_id).into()),
            _ => Ok((value, Actual { digest, size, diff_id, plain_size })),
        }
    })
}

enum Stop {
    Failed(BlobError),
    /// The consumer is gone.
    Unwanted,
}

impl From<BlobError> for Stop {
    fn from(error: BlobError) -> Self {
        Self::Failed(error)
    }
}

fn produce(
    expected: Expected,
    limits: &Limits,
    reader: impl Read + Send,
    keep: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(Digest, u64), Stop> {
    let mut tap = Tap { reader, hasher: Hasher::default(), size: 0, size_max: expected.size, keep, failure: None };
    let outcome = if expected.compression == Compression::None {
        pump(&mut tap, limits, |_| None, full, empty)
    } else {
        decompress(&mut tap, expected.compression, limits, full, empty)
    };
    if let Some(failure) = tap.failure.take() {
        return Err(failure.into());
    }
    outcome?;
    // Decoders stop at the end of their format; what follows belongs to the blob and to its digest.
    let mut rest = [0; 8 << 10];
    let mut trailing = 0_u64;
    loop {
        match tap.read(&mut rest) {
            Ok(0) => break,
            Ok(len) => trailing += len as u64,
            Err(error) => return Err(tap.failure.take().unwrap_or(BlobError::Read(error)).into()),
        }
    }
    if trailing > 0 {
        return Err(BlobError::Limit(format!("{trailing} bytes after the end of its compressed data")).into());
    }
    let (digest, size) = (tap.hasher.finish(), tap.size);
    match expected {
        Expected { size: Some(declared), .. } if declared != size => Err(BlobError::Short(declared, size).into()),
        Expected { digest: Some(declared), .. } if declared != digest => {
            Err(BlobError::Digest(declared, digest).into())
        }
        _ => Ok((digest, size)),
    }
}

fn decompress(
    tap: &mut Tap<'_, impl Read + Send>,
    compression: Compression,
    limits: &Limits,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), Stop> {
    let taken = std::sync::atomic::AtomicU64::new(0);
    let counted = Counted { reader: tap, taken: &taken };
    let buffered = io::BufReader::with_capacity(BUFFER_BYTES, counted);
    let decoder = compression.decoder(buffered).map_err(BlobError::Decompress)?;
    let ratio = |plain: u64| {
        let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
        (plain > Limits::RATIO_FREE_BYTES && plain / limits.ratio > taken)
            .then(|| BlobError::Limit(format!("more than {} plain bytes for each compressed one", limits.ratio)))
    };
    pump(decoder, limits, ratio, full, empty)
}

struct Counted<'a, R> {
    reader: R,
    taken: &'a std::sync::atomic::AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.taken.fetch_add(len as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(len)
    }
}

fn pump(
    mut reader: impl Read,
    limits: &Limits,
    ratio: impl Fn(u64) -> Option<BlobError>,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Result<(), Stop> {
    let mut plain = 0_u64;
    let mut made = 0;
    loop {
        let mut buffer = match empty.try_recv() {
            Ok(buffer) => buffer,
            Err(TryRecvError::Disconnected) => return Err(Stop::Unwanted),
            Err(TryRecvError::Empty) if made < BUFFERS => {
                made += 1;
                vec![0; BUFFER_BYTES]
            }
            Err(TryRecvError::Empty) => empty.recv().map_err(|_| Stop::Unwanted)?,
        };
        buffer.resize(BUFFER_BYTES, 0);
        let mut filled = 0;
        while filled < BUFFER_BYTES {
            match reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BlobError::Decompress(error).into()),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        plain += filled as u64;
        if plain > limits.bytes {
            return Err(BlobError::Limit(format!("more than {} bytes", limits.bytes)).into());
        }
        if let Some(error) = ratio(plain) {
            return Err(error.into());
        }
        buffer.truncate(filled);
        full.send(buffer).map_err(|_| Stop::Unwanted)?;
    }
}

/// The plain content, on the second thread. Its end may also mean that the producer failed.
#[derive(Debug)]
pub struct Consumer {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    used: usize,
    hasher: Option<Hasher>,
    size: u64,
}

impl Consumer {
    fn drain(&mut self) {
        loop {
            let len = self.available();
            if len == 0 {
                return;
            }
            self.used = self.buffer.len();
        }
    }

    fn available(&mut self) -> usize {
        if self.used == self.buffer.len()
            && let Ok(next) = self.full.recv()
        {
            let used = std::mem::replace(&mut self.buffer, next);
            self.used = 0;
            self.size += self.buffer.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.buffer);
            }
            if used.capacity() > 0 {
                let _ = self.empty.send(used); // The producer is done and needs no more buffers.
            }
        }
        self.buffer.len() - self.used
    }
}

impl Read for Consumer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let len = available.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Consumer {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.available();
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, len: usize) {
        self.used += len;
    }
}
