//! Getting a stored image out again: as a source, a native file, or a directory.

use super::{Store, StoreError, io_error};
use crate::digest::Digest;
use crate::extent::Extent;
use crate::flatten::{FlattenError, flatten};
use crate::native::{NativeFile, WriteError};
use crate::signature::Signature;
use crate::source::{Content, SourceImage, SourceLayer, parse_native};
use std::path::Path;

impl Store {
    /// The image as a source: its documents, and its layers' blobs.
    pub fn source(&self, id: &Digest) -> Result<SourceImage, StoreError> {
        let image = self.image(id)?;
        let manifest = self.blob(id, crate::oci::BYTES_MAX)?;
        let (record, _) = self.record(id)?;
        let config = self.blob(&record.config, crate::config::BYTES_MAX as u64)?;
        let (parsed, _) = parse_native(&manifest, &config)?;
        let mut layers = Vec::with_capacity(parsed.layers.len());
        for (descriptor, layer) in parsed.layers.iter().zip(&image.config.layers) {
            let path = self.blob_path(&descriptor.digest);
            layers.push(SourceLayer {
                extent: Extent::open(&path).map_err(io_error(format!("read the blob {}", descriptor.digest)))?,
                compression: descriptor.layer_compression().map_err(crate::source::SourceError::from)?,
                digest: Some(descriptor.digest),
                size: Some(descriptor.size),
                diff_id: Some(layer.diff_id()),
            });
        }
        let content = Content::Native { manifest, config };
        // What was signed elsewhere is not this manifest.
        let own = image.origin.manifest.is_none();
        let signatures =
            image.signatures.into_iter().filter(|signature| own && matches!(signature, Signature::Pod { .. }));
        Ok(SourceImage { names: Vec::new(), manifest: Some(*id), content, layers, signatures: signatures.collect() })
    }

    /// Writes the image to a native file, which gives the same id wherever it is imported.
    pub fn export(&self, id: &Digest, out: &Path) -> Result<(), StoreError> {
        let image = self.source(id)?;
        let Content::Native { manifest, config } = &image.content else {
            unreachable!("the store has only native images")
        };
        let (parsed_manifest, parsed) = parse_native(manifest, config)?;
        let layers: Vec<_> = image.layers.iter().map(|layer| layer.extent.clone()).collect();
        let parsed = (&parsed_manifest, &parsed);
        let file = NativeFile { manifest, config, parsed, signatures: &image.signatures, layers: &layers };
        file.write(out).map_err(|error| match error {
            WriteError::Io { path, source } => StoreError::Io { what: format!("write `{path}`"), source },
            WriteError::Signature(error) => StoreError::Damaged(error.to_string()),
        })
    }

    /// Unpacks all layers into `directory`, which is made, or must be empty.
    pub fn extract(&self, id: &Digest, directory: &Path) -> Result<(), StoreError> {
        flatten(&self.source(id)?, directory).map_err(|error| match error {
            FlattenError::Layer { number, source } => StoreError::Layer { number, source },
            FlattenError::Io { what, source } => StoreError::Io { what, source },
        })
    }
}
