//! From any source to a native file. Only the content counts: the same image in another archive or with other compression
//! gives the same layers and the same app, and the same input the same bytes.

use crate::archive::Archive;
use crate::compression::Compression;
use crate::config::ConfigError;
use crate::digest::{Digest, Hasher};
use crate::extent::Extent;
use crate::limits::Limits;
use crate::name::{ImageName, Version};
use crate::native::{NativeFile, Recompressed, WriteError};
use crate::obtain::name_of;
use crate::oci;
use crate::pipeline::{self, BlobError, Expected};
use crate::reference::Source;
use crate::source::{Content, SourceError, SourceImage, SourceLayer, describe, native_manifest, parse_native};
use crate::unpack::{UnpackError, normalize_path};
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Mutex;
use thiserror::Error;

/// Why an image was not converted.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The source is bad.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The configuration is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer is bad.
    #[error("layer {number}")]
    Layer {
        /// Its place in the image, from 1.
        number: usize,
        /// Why.
        source: UnpackError,
    },
    /// The native file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Converts `source` to the native file `out`, and returns the image's id. Without a name it keeps the source's.
pub fn convert(
    source: &Source,
    out: &Path,
    name: Option<(ImageName, Option<Version>)>,
) -> Result<Digest, ConvertError> {
    let image = SourceImage::open(source, oci::host_architecture())?;
    let (description, own_name) = match &image.content {
        Content::Native { manifest, config } => {
            let (parsed_manifest, parsed) = parse_native(manifest, config)?;
            let renamed = name.as_ref().is_some_and(|(name, version)| {
                *name != parsed.name || (version.is_some() && *version != parsed.version)
            });
            if !renamed {
                return copy(&image, manifest, config, (&parsed_manifest, &parsed), out);
            }
            let own_name = (parsed.name.clone(), parsed.version.clone());
            (crate::source::description_of(parsed), own_name)
        }
        Content::Foreign(description) => (description.clone(), name_of(source, &image)),
    };
    let (name, version) = name.unwrap_or(own_name);
    let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let layers = recompress(&image.layers, directory)?;
    let diff_ids: Vec<_> = layers.iter().map(|(diff_id, _, _)| *diff_id).collect();
    let config = describe(description, name, version, &diff_ids);
    config.check()?;
    let config_bytes = config.to_bytes();
    let blobs: Vec<_> = layers.iter().map(|(_, digest, extent)| (Compression::Zstd, *digest, extent.len())).collect();
    let manifest = native_manifest(&config_bytes, &blobs);
    let (parsed_manifest, _) = parse_native(&manifest, &config_bytes)?;
    let extents: Vec<_> = layers.into_iter().map(|(_, _, extent)| extent).collect();
    let file = NativeFile {
        manifest: &manifest,
        config: &config_bytes,
        parsed: (&parsed_manifest, &config),
        signatures: &[],
        layers: &extents,
    };
    file.write(out)?;
    Ok(Digest::of(&manifest))
}

/// A native image that keeps its name keeps its bytes and its signatures; its layers are checked on the way.
fn copy(
    image: &SourceImage,
    manifest: &[u8],
    config: &[u8],
    parsed: (&oci::Manifest, &crate::config::ImageConfig),
    out: &Path,
) -> Result<Digest, ConvertError> {
    check_layers(image)?;
    let layers: Vec<_> = image.layers.iter().map(|layer| layer.extent.clone()).collect();
    NativeFile { manifest, config, parsed, signatures: &image.signatures, layers: &layers }.write(out)?;
    Ok(Digest::of(manifest))
}

/// Reads every layer and compares it with what the manifest and the configuration say.
pub fn check_layers(image: &SourceImage) -> Result<(), ConvertError> {
    each_layer(&image.layers, |layer| pass(layer, |consumer| scan(consumer).map(|_| ())).map(|_| ()))?;
    Ok(())
}

fn recompress(layers: &[SourceLayer], directory: &Path) -> Result<Vec<(Digest, Digest, Extent)>, ConvertError> {
    let io_error = |error| UnpackError::Blob(BlobError::Keep(error));
    each_layer(layers, |layer| {
        let (file, actual) = pass(layer, |consumer| {
            let compressing = Recompressed::new(consumer, directory).map_err(io_error)?;
            scan(compressing)?.finish().map_err(io_error)
        })?;
        let extent = Extent::whole(file).map_err(io_error)?;
        let mut hasher = Hasher::default();
        io::copy(&mut extent.reader_from(0), &mut hasher).map_err(io_error)?;
        Ok((actual.diff_id, hasher.finish(), extent))
    })
}

fn pass<T>(
    layer: &SourceLayer,
    consume: impl FnOnce(&mut pipeline::Consumer) -> Result<T, UnpackError>,
) -> Result<(T, pipeline::Actual), UnpackError> {
    let SourceLayer { digest, size, diff_id, compression, .. } = *layer;
    let expected = Expected { digest, size, diff_id, compression };
    pipeline::run(expected, &Limits::default(), layer.extent.reader_from(0), &mut |_| Ok(()), consume)
}

/// Reads an archive to its end, and refuses what the unpacker would refuse by its form.
fn scan<R: BufRead>(reader: R) -> Result<R, UnpackError> {
    let limits = Limits::default();
    let mut archive = Archive::new(reader);
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::Limit(format!("{} entries", limits.entries)));
        }
        normalize_path(&entry.path, &limits)
            .map_err(|why| UnpackError::Entry { path: entry.path.escape_ascii().to_string(), why })?;
    }
    Ok(archive.finish()?)
}

/// Runs `work` for all layers, as many at a time as there are processors.
fn each_layer<T: Send>(
    layers: &[SourceLayer],
    work: impl Fn(&SourceLayer) -> Result<T, UnpackError> + Sync,
) -> Result<Vec<T>, ConvertError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4);
    let next = Mutex::new(layers.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let run = || {
        loop {
            let Some((index, layer)) = next.lock().expect("no worker panics").next() else { return };
            let result = work(layer);
            if result.is_err() {
                // Nobody begins another layer.
                next.lock().expect("no worker panics").by_ref().for_each(drop);
            }
            results.lock().expect("no worker panics").push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(layers.len()) {
            scope.spawn(run);
        }
        run();
    });
    let mut results = results.into_inner().expect("no worker panics");
    results.sort_by_key(|(index, _)| *index);
    let numbered = |(index, result): (usize, Result<T, _>)| {
        result.map_err(|source| ConvertError::Layer { number: index + 1, source })
    };
    results.into_iter().map(numbered).collect()
}
