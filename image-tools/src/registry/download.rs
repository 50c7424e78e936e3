//! A download that survives its process: the bytes that came are kept in a partial file, and the next attempt reads
//! those first and asks the registry for the rest.
//!
//! The partial file is named by the digest and locked while somebody writes to it, so two fetches of one image share the
//! work: the second waits, and finds the bytes there. Nothing trusts the file: its bytes pass through the same hash as
//! those from the network.

use super::{BlobReader, RegistryError, Repository};
use crate::digest::Digest;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// A partial file, locked.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Partial {
    /// Opens `DIRECTORY/HEX.partial`, and waits while another process downloads the same blob.
    pub fn lock(directory: &Path, digest: &Digest, size: u64) -> Result<Self, RegistryError> {
        let path = directory.join(format!("{}.partial", digest.hex()));
        let local = |source| RegistryError::Local { what: format!("lock `{}`", path.display()), source };
        loop {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(local)?;
            file.lock().map_err(local)?;
            // The one before us may have finished and removed the file while we waited for its lock.
            let same = std::fs::metadata(&path).ok().map(|named| identity(&named));
            if same == file.metadata().ok().map(|opened| identity(&opened)) {
                return Ok(Self { path, file, size });
            }
        }
    }

    /// How many bytes are there, never more than the blob has.
    fn length(&self) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        if length > self.size {
            // Left over from a manifest that said something else.
            self.file.set_len(0)?;
            return Ok(0);
        }
        Ok(length)
    }

    /// Begins to read: first what is there, then the rest from the registry.
    pub fn download(mut self, repository: &Repository, digest: &Digest) -> Result<Download, RegistryError> {
        let what = format!("read `{}`", self.path.display());
        let kept = self.length().map_err(|source| RegistryError::Local { what: what.clone(), source })?;
        self.file.rewind().map_err(|source| RegistryError::Local { what, source })?;
        let rest = repository.blob(digest, self.size, kept)?;
        Ok(Download { partial: self, kept_left: kept, rest })
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

/// A blob that is being read and kept at once.
pub struct Download {
    partial: Partial,
    /// Bytes of the partial file that were not read yet.
    kept_left: u64,
    rest: BlobReader,
}

impl Download {
    /// The whole blob was read and its digest is right: hands over the file with its bytes, still locked.
    pub fn finish(self) -> (PathBuf, File) {
        (self.partial.path, self.partial.file)
    }

    /// The bytes are not those of the digest: the next attempt begins anew.
    pub fn discard(self) {
        // If it cannot be removed, the next attempt meets the wrong digest again and says so again.
        let _ = std::fs::remove_file(&self.partial.path);
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.kept_left > 0 {
            let length = usize::try_from(self.kept_left).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.partial.file.read(&mut buffer[..length])?;
            if count == 0 && length > 0 {
                return Err(io::Error::other("the partial file became shorter while it was locked"));
            }
            self.kept_left -= count as u64;
            return Ok(count);
        }
        let count = self.rest.read(buffer)?;
        self.partial.file.write_all(&buffer[..count])?;
        Ok(count)
    }
}
