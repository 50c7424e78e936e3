//! Manifests and indexes: reading them strictly, and choosing the image for a platform.

use super::http::{Request, body_bytes};
use super::{RegistryError, Repository};
use crate::digest::Digest;
use crate::name::Version;
use serde::Deserialize;
use std::fmt;

/// Longest manifest; registries themselves refuse longer ones.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Most images in one index.
const INDEX_ENTRIES_MAX: usize = 1000;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A document of a registry whose digest is known.
#[derive(Clone, Debug)]
pub struct Document {
    /// As it was sent; the digest is of these bytes.
    pub bytes: Vec<u8>,
    /// Checked against what the document says of itself.
    pub media_type: String,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
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
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            other => (other, None),
        };
        Self { architecture: architecture.into(), variant }
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
}

/// What a manifest and an index say of themselves; both are looked at, so that one cannot pass for the other
/// (CVE-2021-41190).
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    manifests: Option<Vec<IndexEntry>>,
}

#[derive(Deserialize)]
struct IndexEntry {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: Digest,
    platform: Option<IndexPlatform>,
}

#[derive(Deserialize)]
struct IndexPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
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
        let top = self.document(&reference, &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX])?;
        if !is_index(&top.media_type) {
            return Ok(RemoteImage { manifest: top, index: None });
        }
        let chosen = self.choose(&top, platform)?;
        let manifest = self.document(&chosen.to_string(), &[OCI_MANIFEST, DOCKER_MANIFEST])?;
        Ok(RemoteImage { manifest, index: Some(top.digest) })
    }

    /// Any manifest, by tag or digest, of one of these types.
    pub fn document(&self, reference: &str, types: &[&str]) -> Result<Document, RegistryError> {
        self.first(|endpoint| {
            let request = Request { accept: types, ..Request::default() };
            let what = format!("manifest `{}:{reference}`", endpoint.repository);
            let url = endpoint.url(&format!("manifests/{reference}"));
            let mut response = self.http.ask(endpoint, &url, &request, &what)?;
            let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
            let content_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
            let content_type = content_type.trim().to_owned();
            let bytes = body_bytes(&endpoint.registry, &mut response, MANIFEST_BYTES_MAX)?;
            let digest = Digest::of(&bytes);
            // A tag can be anything; a digest is a promise.
            if let Ok(wanted) = Digest::parse(reference)
                && wanted != digest
            {
                return Err(RegistryError::Digest { host: endpoint.registry.clone(), wanted, got: digest });
            }
            let media_type = check_shape(&bytes, &content_type, types)
                .map_err(|what| RegistryError::Malformed { host: endpoint.registry.clone(), what })?;
            Ok(Document { bytes, media_type, digest })
        })
    }

    fn choose(&self, index: &Document, platform: &Platform) -> Result<Digest, RegistryError> {
        let malformed = |what: &str| RegistryError::Malformed { host: self.name.to_string(), what: what.into() };
        let shape: Shape = serde_json::from_slice(&index.bytes).map_err(|_| malformed("an index that is not JSON"))?;
        let entries = shape.manifests.unwrap_or_default();
        if entries.len() > INDEX_ENTRIES_MAX {
            return Err(malformed("an index of more than 1000 images"));
        }
        choose(&entries, platform).ok_or_else(|| RegistryError::Platform {
            image: self.name.to_string(),
            platform: platform.to_string(),
            available: available(&entries),
        })
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_INDEX)
}

/// The media type, if header, `mediaType` and content agree.
fn check_shape(bytes: &[u8], content_type: &str, types: &[&str]) -> Result<String, String> {
    let shape: Shape =
        serde_json::from_slice(bytes).map_err(|error| format!("with a manifest that is wrong: {error}"))?;
    if shape.schema_version != 2 {
        return Err(format!("with a manifest of schema {}, and only 2 is known", shape.schema_version));
    }
    let said = shape.media_type.as_deref().unwrap_or(content_type);
    if said != content_type {
        return Err(format!("`{}` for a `{}`", content_type.escape_default(), said.escape_default()));
    }
    if !types.contains(&said) {
        return Err(format!("with a document of type `{}`", said.escape_default()));
    }
    let image = shape.layers.is_some() || shape.config.is_some();
    let index = shape.manifests.is_some();
    if image && index || index != is_index(said) {
        return Err("with a document that could be a manifest or an index".into());
    }
    Ok(said.to_owned())
}

fn choose(entries: &[IndexEntry], platform: &Platform) -> Option<Digest> {
    let usable = entries.iter().filter(|entry| matches!(entry.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST));
    let fits = |entry: &&IndexEntry| {
        entry.platform.as_ref().is_some_and(|of| {
            let variant = platform.variant.is_none() || of.variant == platform.variant;
            of.os == "linux" && of.architecture == platform.architecture && variant
        })
    };
    usable.clone().find(fits).map(|entry| entry.digest)
}

fn available(entries: &[IndexEntry]) -> String {
    let mut platforms: Vec<String> = entries
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

    const ALL: &[&str] = &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

    #[test]
    fn cve_2021_41190_media_type_confusion() {
        let image = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let both = r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#;
        let lying = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        let old = r#"{"schemaVersion":1,"config":{},"layers":[]}"#;
        for (bytes, content_type, good) in [
            (image, OCI_MANIFEST, true),
            (index, OCI_INDEX, true),
            (&lying, OCI_INDEX, true),
            (image, OCI_INDEX, false),
            (index, OCI_MANIFEST, false),
            (both, OCI_MANIFEST, false),
            (both, OCI_INDEX, false),
            (&lying, OCI_MANIFEST, false),
            (old, DOCKER_MANIFEST, false),
            (image, "text/html", false),
            ("", OCI_MANIFEST, false),
        ] {
            assert_eq!(check_shape(bytes.as_bytes(), content_type, ALL).is_ok(), good, "{bytes} {content_type}");
        }
    }

    #[test]
    fn the_platform_is_chosen() {
        let digest = |digit: char| format!("sha256:{}", digit.to_string().repeat(64));
        let entry = |architecture: &str, digit: char| {
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                digest(digit)
            )
        };
        let json = format!("[{},{}]", entry("arm64", 'a'), entry("amd64", 'b'));
        let entries: Vec<IndexEntry> = serde_json::from_str(&json).expect("JSON");
        let of = |architecture: &str| {
            choose(&entries, &Platform { architecture: architecture.into(), variant: None })
                .map(|found| found.to_string())
        };
        assert_eq!(of("amd64"), Some(digest('b')));
        assert_eq!(of("arm64"), Some(digest('a')));
        assert_eq!(of("s390x"), None);
        assert_eq!(available(&entries), "linux/arm64, linux/amd64");
    }
}
