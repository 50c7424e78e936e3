//! Putting images into the store: layers in parallel, then the documents, then the name.

use super::layer::{Incoming, Staged};
use super::{Named, Origin, Record, Store, StoreError, StoredImage, StoredLayer, io_error, now_unix_secs};
use crate::digest::Digest;
use crate::limits::Limits;
use crate::name::{ImageName, Version};
use crate::pipeline::Expected;
use crate::provenance::Came;
use crate::signature::{SIGNATURES_MAX, Signature};
use crate::source::{Content, SourceImage, SourceLayer, describe, native_manifest, parse_native};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The documents of a native image whose layers are in the store.
#[derive(Debug)]
pub struct Documents {
    /// The manifest; its digest is the id.
    pub manifest: Vec<u8>,
    /// The configuration.
    pub config: Vec<u8>,
    /// What came with them.
    pub signatures: Vec<Signature>,
    /// Where they came from.
    pub origin: Origin,
    /// What is to mean the image from now on.
    pub names: Vec<Named>,
}

impl SourceLayer {
    /// The layer as the store takes it.
    pub fn incoming(&self) -> Incoming<'static> {
        let Self { digest, size, diff_id, compression, .. } = *self;
        let extent = self.extent.clone();
        Incoming {
            expected: Expected { digest, size, diff_id, compression },
            open: Box::new(move |offset| Ok(Box::new(extent.reader_from(offset)))),
        }
    }
}

impl Store {
    /// Imports an opened source. `name` and `version` are what a foreign image gets; a native one has its own.
    pub fn import(
        &self,
        image: &SourceImage,
        name: &ImageName,
        version: Option<&Version>,
        origin: Origin,
    ) -> Result<StoredImage, StoreError> {
        let incoming: Vec<_> = image.layers.iter().map(SourceLayer::incoming).collect();
        let layers = self.add_layers(&incoming, &Limits::default())?;
        let (manifest, config) = match &image.content {
            Content::Native { manifest, config } => (manifest.clone(), config.clone()),
            Content::Foreign(description) => {
                let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
                let config = describe(description.clone(), name.clone(), version.cloned(), &diff_ids);
                config.check()?;
                let config = config.to_bytes();
                let blobs: Vec<_> = layers.iter().map(|layer| (layer.compression, layer.digest, layer.size)).collect();
                (native_manifest(&config, &blobs), config)
            }
        };
        let own = parse_native(&manifest, &config)?.1;
        let names = vec![Named::Version(own.name, own.version)];
        self.add_image(&Documents { manifest, config, signatures: image.signatures.clone(), origin, names })
    }

    /// Stores layers, several at a time, and makes them visible when all of them are complete and synced.
    pub fn add_layers(&self, incoming: &[Incoming<'_>], limits: &Limits) -> Result<Vec<StoredLayer>, StoreError> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4).min(incoming.len());
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let results: Vec<Mutex<Option<Result<StoredLayer, StoreError>>>> =
            incoming.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = incoming.get(index) else { break };
                let result = self.stage(index + 1, layer, limits).and_then(|staged| self.settle(staged));
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                *results[index].lock().expect("no worker panics") = Some(result);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        let results = results.into_iter().map(|result| result.into_inner().expect("no worker panics"));
        let mut layers = Vec::with_capacity(incoming.len());
        for result in results {
            match result {
                Some(result) => layers.push(result?),
                // Skipped because a later layer failed first, whose error comes.
                None => continue,
            }
        }
        debug_assert_eq!(layers.len(), incoming.len());
        Ok(layers)
    }

    /// Syncs and publishes one layer.
    fn settle(&self, staged: Staged) -> Result<StoredLayer, StoreError> {
        if let Staged::New { .. } = staged {
            self.sync()?;
        }
        self.publish(staged)
    }

    fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::syncfs(&self.lock).map_err(io::Error::from).map_err(io_error("sync the image store"))
    }

    /// Stores the documents of an image whose layers are in the store, and makes the names mean it.
    pub fn add_image(&self, documents: &Documents) -> Result<StoredImage, StoreError> {
        let Documents { manifest, config, signatures, origin, names } = documents;
        let (parsed_manifest, parsed) = parse_native(manifest, config)?;
        let id = Digest::of(manifest);
        let mut size_bytes = (manifest.len() + config.len()) as u64;
        for (layer, descriptor) in parsed.layers.iter().zip(&parsed_manifest.layers) {
            let diff_id = layer.diff_id();
            let stored = self.layer(&diff_id)?.ok_or_else(|| StoreError::Missing(diff_id.to_string()))?;
            size_bytes += descriptor.size + stored.tree_bytes;
        }
        self.write(&self.blob_path(&id), manifest)?;
        self.write(&self.blob_path(&parsed_manifest.config.digest), config)?;
        let (mut origin, mut signatures) = (origin.clone(), signatures.clone());
        if let Ok((before, _)) = self.record(&id) {
            // The same bytes, come again without what came with them before, are no less signed.
            Came::remember(&mut origin.came, before.origin.came);
            if origin.manifest.is_none() {
                (origin.manifest, origin.index) = (before.origin.manifest, origin.index.or(before.origin.index));
            }
            let more = before.signatures.into_iter().filter(|signature| !signatures.contains(signature));
            let more: Vec<_> = more.take(SIGNATURES_MAX.saturating_sub(signatures.len())).collect();
            signatures.extend(more);
        }
        let record = Record {
            version: 1,
            config: parsed_manifest.config.digest,
            size_bytes,
            imported_unix_secs: now_unix_secs(),
            origin,
            signatures,
        };
        self.write(&self.record_path(&id), &record.to_bytes())?;
        for name in names {
            self.set_name(name, &parsed.architecture, &id)?;
        }
        self.image(&id)
    }

    /// Replaces a small file so that a crash leaves the old or the new one.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let write = || {
            let temporary = self.temporary("file")?;
            let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(io_error(format!("write `{}`", path.display())))
    }
}
