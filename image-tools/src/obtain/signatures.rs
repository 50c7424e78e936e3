//! The signatures of an image at a registry: ours as referrers, and, where a rule has keys for them, those of cosign as
//! referrers and under the older tag.
//!
//! What is found is only collected here. Nobody's word counts before `trust` has judged it.

use super::ObtainError;
use super::blob::read_blob;
use crate::digest::Digest;
use crate::oci;
use crate::registry::{RegistryError, RemoteImage, Repository, fallback_tag};
use crate::signature::{
    ARTIFACT_TYPE, BLOB_BYTES_MAX, BUNDLE_TYPE, SIGNATURES_MAX, SIMPLE_SIGNING_ANNOTATION, SIMPLE_SIGNING_TYPE,
    Signature, SignatureError,
};

/// Everything that may speak for the image.
pub(super) fn find(repository: &Repository, image: &RemoteImage, foreign: bool) -> Result<Vec<Signature>, ObtainError> {
    let manifest = image.manifest.digest;
    let mut signatures = referrers(repository, &manifest, ARTIFACT_TYPE)?;
    if foreign {
        for digest in [Some(manifest), image.index].into_iter().flatten() {
            let bundles = referrers(repository, &digest, BUNDLE_TYPE)?;
            signatures.extend(bundles.into_iter().map(|bundle| with_signed(repository, image, &digest, bundle)));
            signatures.extend(tagged(repository, &digest)?);
        }
    }
    signatures.truncate(SIGNATURES_MAX);
    Ok(signatures)
}

fn referrers(repository: &Repository, subject: &Digest, kind: &str) -> Result<Vec<Signature>, ObtainError> {
    let mut signatures = Vec::new();
    for referrer in repository.referrers(subject, kind)? {
        let document = match repository.document(&referrer.digest.to_string(), &[oci::MANIFEST]) {
            Ok(document) => document,
            // Listed and deleted: as if it were not listed.
            Err(RegistryError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let found = Signature::from_artifact(&document.bytes, subject, |digest, size| {
            if size > BLOB_BYTES_MAX as u64 {
                return Err(SignatureError::Blob("content").into());
            }
            read_blob(repository, digest, size)
        });
        signatures.extend(found?);
    }
    Ok(signatures)
}

/// A message signature is about the manifest's own bytes, so they are kept with it.
fn with_signed(repository: &Repository, image: &RemoteImage, digest: &Digest, bundle: Signature) -> Signature {
    let Signature::CosignBundle { bundle, .. } = bundle else { return bundle };
    let mut signed = None;
    if bundle.contains("\"messageSignature\"") {
        signed = if *digest == image.manifest.digest {
            String::from_utf8(image.manifest.bytes.clone()).ok()
        } else {
            let index = repository.document(&digest.to_string(), &[oci::INDEX, oci::DOCKER_INDEX]);
            index.ok().and_then(|index| String::from_utf8(index.bytes).ok())
        };
    }
    Signature::CosignBundle { bundle, signed }
}

/// cosign's older form: an image under the tag `sha256-HEX.sig` whose layers are payloads.
fn tagged(repository: &Repository, subject: &Digest) -> Result<Vec<Signature>, ObtainError> {
    let tag = format!("{}.sig", fallback_tag(subject));
    let document = match repository.document(&tag, &[oci::MANIFEST, oci::DOCKER_MANIFEST]) {
        Ok(document) => document,
        Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let oci::Document::Manifest(manifest) = document.content else { return Ok(Vec::new()) };
    let mut signatures = Vec::new();
    for layer in manifest.layers.iter().take(SIGNATURES_MAX) {
        let annotations = layer.annotations.as_ref();
        let signature = annotations.and_then(|annotations| annotations.get(SIMPLE_SIGNING_ANNOTATION));
        let Some(signature) = signature else { continue };
        if layer.media_type != SIMPLE_SIGNING_TYPE || layer.size > BLOB_BYTES_MAX as u64 {
            continue;
        }
        let payload = read_blob(repository, &layer.digest, layer.size)?;
        if let Ok(payload) = String::from_utf8(payload) {
            signatures.push(Signature::CosignPayload { payload, signature: signature.clone() });
        }
    }
    Ok(signatures)
}
