//! From the types of the OCI image specification (crate `oci-spec`) to those that the rest of this crate may rely on.
//!
//! The specification's types say what a document *can* hold: any digest algorithm, any media type. Ours hold what is accepted
//! here. Annotations are sorted on the way, because what is written from them must be the same bytes each time.

use super::{Descriptor, Index, Manifest, ManifestError, Platform, invalid};
use crate::digest::Digest;
use oci_spec::image as spec;
use std::collections::{BTreeMap, HashMap};

impl TryFrom<&spec::Descriptor> for Descriptor {
    type Error = ManifestError;

    fn try_from(from: &spec::Descriptor) -> Result<Self, ManifestError> {
        let digest = from.digest().as_ref();
        let refused = |_| invalid(format!("has the digest `{}`, which is not of sha256", digest.escape_default()));
        Ok(Self {
            media_type: from.media_type().to_string(),
            digest: Digest::parse(digest).map_err(refused)?,
            size: from.size(),
            artifact_type: from.artifact_type().as_ref().map(ToString::to_string),
            platform: from.platform().as_ref().map(Platform::from),
            annotations: from.annotations().as_ref().map(sorted),
        })
    }
}

impl From<&spec::Platform> for Platform {
    fn from(from: &spec::Platform) -> Self {
        let (os, architecture) = (from.os().to_string(), from.architecture().to_string());
        Self { os, architecture, variant: from.variant().clone() }
    }
}

impl TryFrom<spec::ImageManifest> for Manifest {
    type Error = ManifestError;

    fn try_from(from: spec::ImageManifest) -> Result<Self, ManifestError> {
        Ok(Self {
            schema_version: from.schema_version(),
            media_type: from.media_type().as_ref().map(ToString::to_string),
            artifact_type: from.artifact_type().as_ref().map(ToString::to_string),
            config: Descriptor::try_from(from.config())?,
            layers: from.layers().iter().map(Descriptor::try_from).collect::<Result<_, _>>()?,
            subject: from.subject().as_ref().map(Descriptor::try_from).transpose()?,
            annotations: from.annotations().as_ref().map(sorted),
        })
    }
}

impl TryFrom<spec::ImageIndex> for Index {
    type Error = ManifestError;

    fn try_from(from: spec::ImageIndex) -> Result<Self, ManifestError> {
        Ok(Self {
            schema_version: from.schema_version(),
            media_type: from.media_type().as_ref().map(ToString::to_string),
            manifests: from.manifests().iter().map(Descriptor::try_from).collect::<Result<_, _>>()?,
            annotations: from.annotations().as_ref().map(sorted),
        })
    }
}

fn sorted(annotations: &HashMap<String, String>) -> BTreeMap<String, String> {
    annotations.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::try_from(serde_json::from_str::<spec::ImageManifest>(text)?)
    }

    #[test]
    fn what_is_read_is_written_again() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"a/b","config":{{"mediaType":"c/d","digest":"{digest}","size":1}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{digest}","size":2,"platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}}],"subject":{{"mediaType":"{}","digest":"{digest}","size":3}},"annotations":{{"a":"1","b":"2","c":"3","d":"4"}}}}"#,
            super::super::MANIFEST,
            super::super::DOCKER_MANIFEST,
        );
        assert_eq!(serde_json::to_string(&parse(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn other_digests_are_refused() {
        let of = |digest: &str| {
            parse(&format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{digest}","size":1}},"layers":[]}}"#
            ))
        };
        assert!(of(&Digest::of(b"x").to_string()).is_ok());
        let long = "a".repeat(128);
        for bad in [&format!("sha512:{long}"), "sha256:../../x", "md5:aa", "sha256:", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
