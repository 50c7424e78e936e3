//! Small blobs of a registry.

use super::ObtainError;
use crate::digest::Digest;
use crate::registry::Repository;
use std::io::Read;

/// Reads a blob whose size is known to be small.
pub(super) fn read_blob(repository: &Repository, digest: &Digest, size: u64) -> Result<Vec<u8>, ObtainError> {
    let mut bytes = Vec::new();
    let read = repository.blob(digest, size, 0)?.take(size + 1).read_to_end(&mut bytes);
    read.map_err(|source| ObtainError::Read { what: format!("blob {digest}"), source })?;
    let got = Digest::of(&bytes);
    if got != *digest {
        let host = repository.name().to_string();
        return Err(crate::registry::RegistryError::Digest { host, wanted: *digest, got }.into());
    }
    Ok(bytes)
}
