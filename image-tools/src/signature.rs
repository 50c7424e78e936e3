//! A signature as it travels with an image, whoever made it.
//!
//! Nothing here decides anything: this module knows the encodings, `trust` knows whom to believe. Ours travels as an OCI
//! artifact manifest whose `subject` is the image manifest (inside a `.pod` file and at registries), and as a `.sig` text
//! beside plain files. Those of cosign are kept exactly as they were found.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::minisign::Minisig;
use crate::statement::{self, Statement};

/// `artifactType` of a manifest that carries one of our signatures.
pub const ARTIFACT_TYPE: &str = "application/vnd.pod.signature.v1";
/// Media type of the layer with the statement.
pub const STATEMENT_TYPE: &str = "application/vnd.pod.statement.v1";
/// Media type of the layer with the minisign signature over the statement.
pub const MINISIG_TYPE: &str = "application/vnd.pod.minisig.v1";
/// `artifactType` of cosign's bundles at registries.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of the layers of cosign's older signature images.
pub const SIMPLE_SIGNING_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with the signature in cosign's older signature images.
pub const SIMPLE_SIGNING_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Largest blob of a signature that is ever read.
pub const BLOB_BYTES_MAX: usize = 1 << 20;
/// Most signatures looked at for one image; more is an attempt to keep us busy.
pub const SIGNATURES_MAX: usize = 64;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// Why bytes are not a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The artifact manifest is not of the form that we write.
    #[error("malformed signature manifest: {0}")]
    Manifest(String),
    /// A blob is missing, has another size or another digest.
    #[error("the signature's {0} does not have the digest that its manifest gives")]
    Blob(&'static str),
    /// A `.sig` text that does not consist of statements and minisign signatures.
    #[error("malformed signature file: {0}")]
    File(&'static str),
    /// More signatures than anybody needs.
    #[error("more than {SIGNATURES_MAX} signatures")]
    TooMany,
}

/// One signature document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Signature {
    /// Ours: a statement and a minisign signature over it.
    Pod {
        /// The statement's text.
        statement: String,
        /// The minisign file's text.
        minisig: String,
    },
    /// cosign's older form: a simple-signing payload and the base64 signature from the annotation.
    CosignPayload {
        /// The payload's text.
        payload: String,
        /// The annotation's text.
        signature: String,
    },
    /// cosign's bundle v0.3.
    CosignBundle {
        /// The bundle's JSON text.
        bundle: String,
        /// The text of the manifest that a message signature is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<String>,
    },
}

/// An OCI manifest and the blobs it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Its `artifactType`, for the index that lists it.
    pub artifact_type: &'static str,
    /// Media type and bytes of each blob, the config first.
    pub blobs: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    subject: Descriptor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct BundleManifest {
    layers: Vec<BundleLayer>,
    subject: BundleSubject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BundleLayer {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
struct BundleSubject {
    digest: Digest,
}

impl Signature {
    /// The artifact that carries this signature for the image manifest `subject` of `size` bytes.
    ///
    /// # Errors
    /// cosign's older form, which has a layout of its own and is never written by us.
    pub fn to_artifact(&self, subject: &Digest, size: u64) -> Result<Artifact, SignatureError> {
        let (artifact_type, layers): (_, Vec<(&'static str, Vec<u8>)>) = match self {
            Self::Pod { statement, minisig } => (
                ARTIFACT_TYPE,
                vec![(STATEMENT_TYPE, statement.clone().into_bytes()), (MINISIG_TYPE, minisig.clone().into_bytes())],
            ),
            Self::CosignBundle { bundle, .. } => (BUNDLE_TYPE, vec![(BUNDLE_TYPE, bundle.clone().into_bytes())]),
            Self::CosignPayload { .. } => {
                return Err(SignatureError::Manifest("cosign's tag layout is read, never written".to_owned()));
            }
        };
        let blobs: Vec<_> = [(EMPTY_TYPE, EMPTY.to_vec())].into_iter().chain(layers).collect();
        let mut descriptors = blobs.iter().map(|(media_type, bytes)| Descriptor {
            media_type: (*media_type).to_owned(),
            digest: Digest::of(bytes).to_string(),
            size: bytes.len() as u64,
            data: None,
            annotations: None,
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: artifact_type.to_owned(),
            config: descriptors.next().expect("the empty config is always there"),
            layers: descriptors.collect(),
            subject: Descriptor {
                media_type: MANIFEST_TYPE.to_owned(),
                digest: subject.to_string(),
                size,
                data: None,
                annotations: None,
            },
            annotations: None,
        };
        let manifest = serde_json::to_vec(&manifest).expect("plain data has a JSON form");
        Ok(Artifact { manifest, artifact_type, blobs })
    }

    /// Reads an artifact manifest, fetching its blobs with `blob`, which must not return more than `BLOB_BYTES_MAX` bytes.
    ///
    /// Returns nothing for artifacts that are no signatures, or about another manifest: a registry may list anything.
    ///
    /// # Errors
    /// A manifest that says it is a signature of ours and is not one, and blobs that differ from their digests.
    pub fn from_artifact<E: From<SignatureError>>(
        manifest: &[u8],
        subject: &Digest,
        mut blob: impl FnMut(&Digest, u64) -> Result<Vec<u8>, E>,
    ) -> Result<Option<Self>, E> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            artifact_type: Option<String>,
        }
        let malformed = |error: serde_json::Error| SignatureError::Manifest(error.to_string());
        let kind: Kind = serde_json::from_slice(manifest).map_err(malformed)?;
        let kind = kind.artifact_type.unwrap_or_default();
        if kind == BUNDLE_TYPE {
            return Self::from_bundle_artifact(manifest, subject, blob);
        }
        if kind != ARTIFACT_TYPE {
            return Ok(None);
        }
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(malformed)?;
        if manifest.schema_version != 2 || manifest.media_type != MANIFEST_TYPE {
            return Err(SignatureError::Manifest("not an OCI image manifest".to_owned()).into());
        }
        if manifest.subject.digest != subject.to_string() {
            return Ok(None);
        }
        let mut text = |layer: &Descriptor, what: &'static str| -> Result<String, E> {
            let digest = Digest::parse(&layer.digest).map_err(|_| SignatureError::Blob(what))?;
            if layer.size > BLOB_BYTES_MAX as u64 {
                return Err(SignatureError::Blob(what).into());
            }
            let bytes = blob(&digest, layer.size)?;
            if bytes.len() as u64 != layer.size || Digest::of(&bytes) != digest {
                return Err(SignatureError::Blob(what).into());
            }
            String::from_utf8(bytes).map_err(|_| SignatureError::Manifest(format!("the {what} is not text")).into())
        };
        match &manifest.layers[..] {
            [statement, minisig] if statement.media_type == STATEMENT_TYPE && minisig.media_type == MINISIG_TYPE => {
                let statement = text(statement, "statement")?;
                Ok(Some(Self::Pod { statement, minisig: text(minisig, "minisign part")? }))
            }
            _ => Err(SignatureError::Manifest("unexpected layers".to_owned()).into()),
        }
    }

    /// cosign's bundle. What other tools write is read leniently here and strictly when it is verified.
    fn from_bundle_artifact<E: From<SignatureError>>(
        manifest: &[u8],
        subject: &Digest,
        mut blob: impl FnMut(&Digest, u64) -> Result<Vec<u8>, E>,
    ) -> Result<Option<Self>, E> {
        let Ok(manifest) = serde_json::from_slice::<BundleManifest>(manifest) else { return Ok(None) };
        let [layer] = &manifest.layers[..] else { return Ok(None) };
        let foreign = manifest.subject.digest != *subject || layer.media_type != BUNDLE_TYPE;
        if foreign || layer.size > BLOB_BYTES_MAX as u64 {
            return Ok(None);
        }
        let bytes = blob(&layer.digest, layer.size)?;
        if bytes.len() as u64 != layer.size || Digest::of(&bytes) != layer.digest {
            return Err(SignatureError::Blob("bundle").into());
        }
        Ok(String::from_utf8(bytes).ok().map(|bundle| Self::CosignBundle { bundle, signed: None }))
    }

    /// The text of a `.sig` file: each statement followed by its minisign signature.
    #[must_use]
    pub fn to_file(signatures: &[Self]) -> String {
        let mut text = String::new();
        for signature in signatures {
            if let Self::Pod { statement, minisig } = signature {
                text.push_str(statement);
                text.push_str(minisig);
            }
        }
        text
    }

    /// Reads a `.sig` file.
    ///
    /// # Errors
    /// A text with anything but statements, each followed by a minisign signature.
    pub fn from_file(text: &str) -> Result<Vec<Self>, SignatureError> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (groups, rest) = lines.as_chunks::<13>();
        if !rest.is_empty() || groups.is_empty() {
            return Err(SignatureError::File("nine lines of statement and four of signature are expected"));
        }
        if groups.len() > SIGNATURES_MAX {
            return Err(SignatureError::TooMany);
        }
        groups
            .iter()
            .map(|group| {
                let (statement, minisig) = group.split_at(9);
                let (statement, minisig) = (statement.concat(), minisig.concat());
                Statement::parse(statement.as_bytes()).map_err(|_| SignatureError::File("a statement is malformed"))?;
                Minisig::parse(&minisig).map_err(|_| SignatureError::File("a signature is malformed"))?;
                Ok(Self::Pod { statement, minisig })
            })
            .collect()
    }
}

// A statement has the domain line and eight fields; `from_file` relies on it.
const _: () = assert!(statement::LINES == 9);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;
    use crate::statement::Subject;

    fn signature() -> (Digest, Signature) {
        let key = SecretKey::generate().expect("entropy");
        let manifest = Digest::of(b"manifest");
        let subject = Subject {
            name: crate::name::ImageName::parse("a").expect("name"),
            version: None,
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            manifest,
            index: None,
        };
        let now = jiff::Timestamp::now();
        let text = Statement::new(subject, now, None, key.id()).expect("sound").to_text();
        let minisig = Minisig::sign(&key, text.as_bytes(), "a").expect("clean").to_text();
        (manifest, Signature::Pod { statement: text, minisig })
    }

    #[test]
    fn artifacts_carry_signatures_and_nothing_else() {
        let (subject, signature) = signature();
        let artifact = signature.to_artifact(&subject, 8).expect("ours");
        let blob = |digest: &Digest, _| -> Result<Vec<u8>, SignatureError> {
            let found = artifact.blobs.iter().find(|(_, bytes)| Digest::of(bytes) == *digest);
            found.map(|(_, bytes)| bytes.clone()).ok_or(SignatureError::Blob("blob"))
        };
        assert_eq!(Signature::from_artifact(&artifact.manifest, &subject, blob), Ok(Some(signature)));
        assert_eq!(Signature::from_artifact(&artifact.manifest, &Digest::of(b"other"), blob), Ok(None));
        assert_eq!(Signature::from_artifact(b"{\"artifactType\":\"sbom\"}", &subject, blob), Ok(None));
        let longer = |_: &Digest, _| -> Result<Vec<u8>, SignatureError> { Ok(vec![0; 9]) };
        assert!(Signature::from_artifact(&artifact.manifest, &subject, longer).is_err());
        let text = String::from_utf8(artifact.manifest.clone()).expect("JSON");
        for (from, to) in [
            (STATEMENT_TYPE, MINISIG_TYPE),
            ("\"schemaVersion\":2", "\"schemaVersion\":3"),
            ("{\"schema", "{\"x\":1,\"schema"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert!(Signature::from_artifact(changed.as_bytes(), &subject, blob).is_err(), "{to}");
        }
    }

    #[test]
    fn sig_files_hold_several() {
        let (_, one) = signature();
        let (_, two) = signature();
        let text = Signature::to_file(&[one.clone(), two.clone()]);
        assert_eq!(Signature::from_file(&text), Ok(vec![one, two]));
        for bad in ["", "x\n", &text[1..], &text[..text.len() - 1], &format!("{text}\n")] {
            assert!(Signature::from_file(bad).is_err(), "{bad:?}");
        }
    }
}
