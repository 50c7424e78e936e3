//! Manifests and indexes: reading them strictly, and choosing the image for a platform.

use super::http::{Request, body_bytes};
use super::{RegistryError, Repository};
use crate::digest::Digest;
use crate::name::Version;
use crate::oci::{self, Descriptor, Index};
use crate::provenance::Channel;
use std::fmt;

/// `artifactType` of the entry of an index that is a native image.
pub const NATIVE_TYPE: &str = "application/vnd.pod.image.v1";
/// All that an image can be at a registry.
const IMAGE_TYPES: [&str; 4] = [oci::MANIFEST, oci::INDEX, oci::DOCKER_MANIFEST, oci::DOCKER_INDEX];

/// A document of a registry whose digest is known.
#[derive(Clone, Debug)]
pub struct Document {
    /// As it was sent; the digest is of these bytes.
    pub bytes: Vec<u8>,
    /// The registry's word for it, which agrees with the document's own.
    pub media_type: String,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// What it says.
    pub content: oci::Document,
    /// How well it is known who sent it.
    pub channel: Channel,
}

/// What an image was built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: String,
    /// `v8`, `v7` …
    pub variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub fn host() -> Self {
        Self { architecture: oci::host_architecture().into(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// An image at a registry.
#[derive(Clone, Debug)]
pub struct RemoteImage {
    /// The manifest of the chosen platform.
    pub manifest: Document,
    /// The index it was chosen from, if there was one: what the tag names, and what may be signed instead.
    pub index: Option<Digest>,
    /// How well it is known who said that the tag or the digest names it.
    pub channel: Channel,
}

impl Repository {
    /// The manifest of an image: by digest if there is one, else by tag, through at most one index.
    pub fn image(
        &self,
        version: Option<&Version>,
        digest: Option<&Digest>,
        platform: &Platform,
    ) -> Result<RemoteImage, RegistryError> {
        let reference = match (digest, version) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(version)) => version.as_str().to_owned(),
            (None, None) => Version::latest().as_str().to_owned(),
        };
        let top = self.document(&reference, &IMAGE_TYPES)?;
        let channel = top.channel;
        let oci::Document::Index(index) = &top.content else {
            return Ok(RemoteImage { manifest: top, index: None, channel });
        };
        let chosen = choose(index, platform).ok_or_else(|| RegistryError::Platform {
            image: self.name.to_string(),
            platform: platform.to_string(),
            available: available(index),
        })?;
        let manifest = self.document(&chosen.to_string(), &[oci::MANIFEST, oci::DOCKER_MANIFEST])?;
        Ok(RemoteImage { manifest, index: Some(top.digest), channel })
    }

    /// Any manifest, by tag or digest, of one of these types.
    pub fn document(&self, reference: &str, types: &[&str]) -> Result<Document, RegistryError> {
        self.first(|endpoint| {
            let request = Request { accept: types, ..Request::default() };
            let what = format!("manifest `{}:{reference}`", endpoint.repository);
            let url = endpoint.url(&format!("manifests/{reference}"));
            let mut response = self.http.ask(endpoint, &url, &request, &what)?;
            let media_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
            let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_owned();
            let bytes = body_bytes(&endpoint.registry, &mut response, oci::BYTES_MAX)?;
            let digest = Digest::of(&bytes);
            // A tag can be anything; a digest is a promise.
            if let Ok(wanted) = Digest::parse(reference)
                && wanted != digest
            {
                return Err(RegistryError::Digest { host: endpoint.registry.clone(), wanted, got: digest });
            }
            let malformed = |what: String| RegistryError::Malformed { host: endpoint.registry.clone(), what };
            if !types.contains(&media_type.as_str()) {
                return Err(malformed(format!("with a document of type `{}`", media_type.escape_default())));
            }
            // CVE-2021-41190: header, `mediaType` and content must agree.
            let content = oci::Document::parse(&bytes, Some(&media_type))
                .map_err(|error| malformed(format!("with a document that is refused: {error}")))?;
            Ok(Document { bytes, media_type, digest, content, channel: self.http.channel(endpoint) })
        })
    }
}

fn choose(index: &Index, platform: &Platform) -> Option<Digest> {
    let fits = |entry: &&Descriptor| {
        let image = matches!(entry.media_type.as_str(), oci::MANIFEST | oci::DOCKER_MANIFEST);
        image
            && entry.platform.as_ref().is_some_and(|of| {
                let variant = platform.variant.is_none() || of.variant == platform.variant;
                of.os == "linux" && of.architecture == platform.architecture && variant
            })
    };
    // A native image stands beside a manifest of the same layers for other tools.
    let of_type =
        |kind: Option<&str>| index.manifests.iter().filter(|entry| entry.artifact_type.as_deref() == kind).find(fits);
    of_type(Some(NATIVE_TYPE)).or_else(|| of_type(None)).map(|entry| entry.digest)
}

fn available(index: &Index) -> String {
    let mut platforms: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|of| of.os != "unknown")
        .map(|of| format!("{}/{}", of.os, of.architecture).escape_default().to_string())
        .take(20)
        .collect();
    platforms.dedup();
    if platforms.is_empty() { "none".into() } else { platforms.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_chosen() {
        let digest = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
        let entry = |architecture: &str, digit: char| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                oci::MANIFEST,
                digest(digit)
            )
        };
        let json = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry("arm64", 'a'), entry("amd64", 'b'));
        let index: Index = serde_json::from_str(&json).expect("JSON");
        let of = |architecture: &str| {
            choose(&index, &Platform { architecture: architecture.into(), variant: None })
                .map(|found| found.to_string())
        };
        assert_eq!(of("amd64"), Some(digest('b')));
        assert_eq!(of("arm64"), Some(digest('a')));
        assert_eq!(of("s390x"), None);
        assert_eq!(available(&index), "linux/arm64, linux/amd64");
    }
}
