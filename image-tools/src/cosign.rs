//! Key-based signatures made by cosign (and, in the older form, by podman and skopeo), verified without them.
//!
//! Two forms exist: the simple-signing payload with a signature in an annotation, and the sigstore bundle v0.3 with either
//! a message signature or a DSSE envelope around an in-toto statement. Nothing is read from a payload before a key that a
//! rule names has verified it. Certificates and transparency logs are not looked at: a key-based signature needs neither.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::digest::Digest;
use crate::key::PemKey;
use crate::name::{ImageName, Version};
use crate::signature::BUNDLE_TYPE;

#[cfg(test)]
mod tests;

/// The predicate of the in-toto statements that `cosign sign` makes.
const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const IN_TOTO_TYPE: &str = "application/vnd.in-toto+json";
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// Why a cosign signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignError {
    /// The document cannot be read.
    #[error("malformed cosign signature: {0}")]
    Format(String),
    /// The key did not make it, or it was changed.
    #[error("the key does not verify the cosign signature")]
    Unverified,
    /// It verifies, and says something else than that an image is signed.
    #[error("the cosign document is a signed `{0}`, not an image signature")]
    Kind(String),
}

/// What a verified cosign signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The manifest or index that was signed.
    pub digest: Digest,
    /// The name it was signed under; bundles of cosign have none.
    pub name: Option<ImageName>,
    /// The tag, if the name has one.
    pub version: Option<Version>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageSignature {
    message_digest: Option<MessageDigest>,
    signature: String,
}

#[derive(Deserialize)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InToto {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<InTotoSubject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct InTotoSubject {
    #[serde(default)]
    name: Option<String>,
    digest: std::collections::BTreeMap<String, String>,
}

/// Verifies a simple-signing payload by the signature of its annotation.
///
/// # Errors
/// A signature that `key` did not make, and a payload that is not an image signature.
pub fn verify_payload(key: &PemKey, payload: &str, signature: &str) -> Result<Claim, CosignError> {
    let signature = base64("the signature", signature.trim_end())?;
    if !key.verifies(payload.as_bytes(), &signature) {
        return Err(CosignError::Unverified);
    }
    let payload: Payload = json("the payload", payload.as_bytes())?;
    if payload.critical.r#type != PAYLOAD_TYPE {
        return Err(CosignError::Kind(payload.critical.r#type.escape_default().to_string()));
    }
    let (name, version) = docker_reference(&payload.critical.identity.docker_reference)?;
    Ok(Claim { digest: payload.critical.image.docker_manifest_digest, name: Some(name), version })
}

/// Verifies a bundle v0.3. `signed` is the text of the manifest that a message signature is about.
///
/// # Errors
/// A bundle of another version, a signature that `key` did not make, and a statement that is not an image signature.
pub fn verify_bundle(key: &PemKey, bundle: &str, signed: Option<&str>) -> Result<Claim, CosignError> {
    let bundle: Bundle = json("the bundle", bundle.as_bytes())?;
    if bundle.media_type != BUNDLE_TYPE {
        return Err(CosignError::Format(format!("bundle of type `{}`", bundle.media_type.escape_default())));
    }
    match (bundle.message_signature, bundle.dsse_envelope) {
        (Some(message), None) => verify_message(key, &message, signed),
        (None, Some(envelope)) => verify_envelope(key, &envelope),
        _ => Err(CosignError::Format("a bundle has either a message signature or an envelope".to_owned())),
    }
}

fn verify_message(key: &PemKey, message: &MessageSignature, signed: Option<&str>) -> Result<Claim, CosignError> {
    let signed = signed.ok_or_else(|| CosignError::Format("the signed manifest is not at hand".to_owned()))?;
    let digest = Digest::of(signed.as_bytes());
    // The digest in the bundle is a hint, but a wrong one is a sign of tampering.
    if let Some(hint) = &message.message_digest
        && hint.algorithm == "SHA2_256"
        && base64("the message digest", &hint.digest)? != digest.as_bytes()
    {
        return Err(CosignError::Format("the message digest is that of something else".to_owned()));
    }
    if !key.verifies(signed.as_bytes(), &base64("the signature", &message.signature)?) {
        return Err(CosignError::Unverified);
    }
    Ok(Claim { digest, name: None, version: None })
}

fn verify_envelope(key: &PemKey, envelope: &Envelope) -> Result<Claim, CosignError> {
    let payload = base64("the payload", &envelope.payload)?;
    let signed = pre_authentication_encoding(&envelope.payload_type, &payload);
    let mut verified = false;
    // One signature is what the bundle format allows; a second could only hide which of them counts.
    if let [signature] = &envelope.signatures[..] {
        verified = key.verifies(&signed, &base64("the signature", &signature.sig)?);
    }
    if !verified {
        return Err(CosignError::Unverified);
    }
    if envelope.payload_type != IN_TOTO_TYPE {
        return Err(CosignError::Kind(envelope.payload_type.escape_default().to_string()));
    }
    let statement: InToto = json("the statement", &payload)?;
    if statement.kind != STATEMENT_TYPE || statement.predicate_type != SIGN_PREDICATE {
        return Err(CosignError::Kind(statement.predicate_type.escape_default().to_string()));
    }
    let [subject] = &statement.subject[..] else {
        return Err(CosignError::Format("an image signature has one subject".to_owned()));
    };
    let hex = subject.digest.get("sha256").and_then(|hex| Digest::from_hex(hex));
    let digest = hex.ok_or_else(|| CosignError::Format("the subject has no sha256 digest".to_owned()))?;
    let (name, version) = match subject.name.as_deref() {
        None | Some("") => (None, None),
        Some(name) => docker_reference(name).map(|(name, version)| (Some(name), version))?,
    };
    Ok(Claim { digest, name, version })
}

/// What DSSE signs: type and payload with their lengths, so that neither can be taken for the other.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// The name in a docker reference, in the form that images of registries have here.
fn docker_reference(text: &str) -> Result<(ImageName, Option<Version>), CosignError> {
    let refused = || CosignError::Format(format!("`{}` is not a docker reference", text.escape_default()));
    // cosign writes a digest behind the name only when told to; the payload's own digest is what is compared.
    let name = text.split('@').next().unwrap_or_default();
    let after_slash = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, version) = match name[after_slash..].find(':') {
        Some(colon) => (&name[..after_slash + colon], Some(&name[after_slash + colon + 1..])),
        None => (name, None),
    };
    let version = version.map(Version::parse).transpose().map_err(|_| refused())?;
    let name = ImageName::parse(name).map_err(|_| refused())?;
    Ok((canonical_name(&name), version))
}

/// Docker Hub's names have several spellings; this is the long one.
#[must_use]
pub fn canonical_name(name: &ImageName) -> ImageName {
    let rest = match name.host() {
        Some("index.docker.io" | "registry-1.docker.io" | "docker.io") => {
            name.as_str().split_once('/').map_or(name.as_str(), |(_, rest)| rest)
        }
        Some(_) => return name.clone(),
        None => name.as_str(),
    };
    let library = if rest.contains('/') { "" } else { "library/" };
    ImageName::parse(&format!("docker.io/{library}{rest}")).unwrap_or_else(|_| name.clone())
}

fn base64(what: &str, text: &str) -> Result<Vec<u8>, CosignError> {
    STANDARD.decode(text).map_err(|_| CosignError::Format(format!("{what} is not base64")))
}

fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, CosignError> {
    serde_json::from_slice(bytes).map_err(|error| CosignError::Format(format!("{what}: {error}")))
}
