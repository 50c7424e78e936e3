//! Native files: an OCI layout in one tar, the same bytes for the same image.

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::extent::Extent;
use crate::oci::{self, Descriptor, Index, Manifest};
use crate::signature::{Artifact, Signature, SignatureError};
use crate::statement::Statement;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a native file was not written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The system said no.
    #[error("write `{path}`")]
    Io {
        /// The file.
        path: String,
        /// The errno.
        source: io::Error,
    },
    /// A signature has no native form.
    #[error("the image has a signature that a native file cannot hold")]
    Signature(#[from] SignatureError),
}

/// All of a native file.
#[derive(Debug)]
pub struct NativeFile<'a> {
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// The configuration's bytes.
    pub config: &'a [u8],
    /// The same, parsed.
    pub parsed: (&'a Manifest, &'a ImageConfig),
    /// Signatures of the manifest.
    pub signatures: &'a [Signature],
    /// Where the layers' blobs are, in the manifest's order.
    pub layers: &'a [Extent],
}

impl NativeFile<'_> {
    /// Writes the file under a temporary name and renames it.
    pub fn write(&self, path: &Path) -> Result<(), WriteError> {
        let artifacts = self.artifacts()?;
        let write = || {
            let (temporary, file) = temporary_beside(path)?;
            let result = self.write_to(&file, &artifacts).and_then(|()| file.sync_all());
            match result.and_then(|()| std::fs::rename(&temporary, path)) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let _ = std::fs::remove_file(&temporary); // The first error is the one to tell.
                    Err(error)
                }
            }
        };
        write().map_err(|source| WriteError::Io { path: path.display().to_string(), source })
    }

    fn artifacts(&self) -> Result<Vec<Artifact>, WriteError> {
        let (id, size) = (Digest::of(self.manifest), self.manifest.len() as u64);
        let artifacts = self.signatures.iter().map(|signature| signature.to_artifact(&id, size));
        Ok(artifacts.collect::<Result<_, _>>()?)
    }

    fn index(&self, artifacts: &[Artifact]) -> Vec<u8> {
        let (_, config) = self.parsed;
        let name = match &config.version {
            Some(version) => format!("{}:{version}", config.name),
            None => config.name.to_string(),
        };
        let mut image = Descriptor::of(oci::MANIFEST, self.manifest);
        image.annotations = Some(BTreeMap::from([(oci::REF_NAME.to_owned(), name)]));
        image.platform =
            Some(oci::Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant: None });
        let signatures = artifacts.iter().map(|artifact| Descriptor {
            artifact_type: Some(artifact.artifact_type.to_owned()),
            ..Descriptor::of(oci::MANIFEST, &artifact.manifest)
        });
        let manifests = std::iter::once(image).chain(signatures).collect();
        let media_type = Some(oci::INDEX.to_owned());
        let index = Index { schema_version: 2, media_type, manifests, annotations: None };
        serde_json::to_vec(&index).expect("strings and numbers always serialise")
    }

    /// Small documents first, so that a reader of a stream has them before the layers.
    fn write_to(&self, file: &File, artifacts: &[Artifact]) -> io::Result<()> {
        let mut members: BTreeMap<String, &[u8]> = BTreeMap::new();
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        members.insert(blob(self.manifest), self.manifest);
        members.insert(blob(self.config), self.config);
        for artifact in artifacts {
            members.insert(blob(&artifact.manifest), &artifact.manifest);
            members.extend(artifact.blobs.iter().map(|(_, bytes)| (blob(bytes), &bytes[..])));
        }
        let index = self.index(artifacts);
        append(file, "oci-layout", 0, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(file, "index.json", 0, &index)?;
        for (name, bytes) in members {
            append(file, &name, 0, bytes)?;
        }
        let layers: BTreeMap<Digest, &Extent> =
            self.parsed.0.layers.iter().map(|layer| layer.digest).zip(self.layers).collect();
        for (digest, extent) in layers {
            append(file, &format!("blobs/sha256/{}", digest.hex()), extent.len(), &[])?;
            extent.copy_to(file)?;
            pad(file, extent.len())?;
        }
        (&*file).write_all(&[0; 1024])
    }
}

/// A header for `bytes`, or for `size` bytes that the caller writes. Owner, mode and time are the same for everybody.
fn append(mut file: &File, name: &str, size: u64, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(if bytes.is_empty() { size } else { bytes.len() as u64 });
    header.set_cksum();
    file.write_all(header.as_bytes())?;
    file.write_all(bytes)?;
    pad(file, bytes.len() as u64)
}

fn pad(mut file: &File, size: u64) -> io::Result<()> {
    let padding = size.wrapping_neg() % 512;
    file.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)])
}

fn temporary_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let temporary = path.with_file_name(name);
    let _ = std::fs::remove_file(&temporary); // Left by a process that had the same id and was killed.
    let file = File::options().read(true).write(true).create_new(true).open(&temporary)?;
    Ok((temporary, file))
}

/// The signatures with one more; an earlier one by the same key for the same name and version is replaced.
pub fn with_signature(signatures: &[Signature], new: Signature) -> Vec<Signature> {
    let key = |signature: &Signature| match signature {
        Signature::Pod { statement, .. } => Statement::parse(statement.as_bytes())
            .ok()
            .map(|statement| (statement.key, statement.subject.name, statement.subject.version)),
        _ => None,
    };
    let by = key(&new);
    let others = signatures.iter().filter(|other| by.is_none() || key(other) != by).cloned();
    others.chain([new]).collect()
}

/// Compresses a stream into an unnamed file beside `out`, one pass: the writer's side of a layer.
pub(crate) struct Recompressed<R> {
    reader: R,
    encoder: zstd::Encoder<'static, BufWriter<File>>,
    failure: Option<io::Error>,
}

/// What `zstd` itself takes. Another level would change every image's digest.
const LEVEL: i32 = 3;

impl<R: io::BufRead> Recompressed<R> {
    pub(crate) fn new(reader: R, directory: &Path) -> io::Result<Self> {
        let file = crate::extent::unnamed_file(directory)?;
        let encoder = zstd::Encoder::new(BufWriter::with_capacity(256 << 10, file), LEVEL)?;
        Ok(Self { reader, encoder, failure: None })
    }

    pub(crate) fn finish(self) -> io::Result<File> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl<R: io::BufRead> Read for Recompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = io::BufRead::fill_buf(self)?.read(buffer)?;
        io::BufRead::consume(self, len);
        Ok(len)
    }
}

impl<R: io::BufRead> io::BufRead for Recompressed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::new(failure.kind(), failure.to_string()));
        }
        self.reader.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        // The bytes are still in the buffer, so asking again costs nothing and cannot fail.
        let written = self.reader.fill_buf().and_then(|bytes| self.encoder.write_all(&bytes[..len]));
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
        self.reader.consume(len);
    }
}
