//! Public keys in PEM, as cosign and `openssl` write them, each bound to one signature scheme.
//!
//! The scheme is chosen by the rule that trusts the key and never guessed from a signature: an Ed25519 key would verify
//! both pure and prehashed signatures, and which of them was meant is for the owner to say.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use sha2::{Digest as _, Sha256, Sha512};

use super::{KeyError, KeyId, fingerprint};

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Our own statements, signed in minisign's form.
    Minisign,
    /// ECDSA on P-256 over SHA-256, with DER signatures: cosign's default.
    EcdsaP256,
    /// Pure Ed25519.
    Ed25519,
    /// Ed25519ph, prehashed with SHA-512, no context: what cosign 3 does with Ed25519 keys.
    Ed25519ph,
}

impl Scheme {
    /// The name used in rule files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minisign => "minisign",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Ed25519 => "ed25519",
            Self::Ed25519ph => "ed25519ph",
        }
    }

    /// Reads the name used in rule files.
    ///
    /// # Errors
    /// Any other name.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        [Self::Minisign, Self::EcdsaP256, Self::Ed25519, Self::Ed25519ph]
            .into_iter()
            .find(|scheme| scheme.as_str() == text)
            .ok_or_else(|| KeyError::Scheme(text.to_owned()))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Point {
    P256(Box<p256::ecdsa::VerifyingKey>),
    Ed25519(VerifyingKey),
}

/// The fixed head of a `SubjectPublicKeyInfo` for an uncompressed P-256 point: DER has one spelling for it.
pub(crate) const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for Ed25519 (RFC 8410).
pub(crate) const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key for cosign signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PemKey {
    id: KeyId,
    scheme: Scheme,
    point: Point,
    der: Vec<u8>,
}

impl PemKey {
    /// Reads a `PUBLIC KEY` PEM text for one scheme.
    ///
    /// # Errors
    /// A text that is not exactly one such key, or whose key cannot be used with `scheme`.
    pub fn parse(text: &str, scheme: Scheme) -> Result<Self, KeyError> {
        let refused = || KeyError::Pem(scheme);
        let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----").ok_or_else(refused)?;
        let body = body.strip_suffix("-----END PUBLIC KEY-----").ok_or_else(refused)?;
        let body: String = body.chars().filter(|letter| !matches!(letter, '\n' | '\r')).collect();
        let der = STANDARD.decode(body).map_err(|_| refused())?;
        let point = match scheme {
            Scheme::Minisign => return Err(refused()),
            Scheme::EcdsaP256 => {
                let point = der.strip_prefix(&P256_HEAD).ok_or_else(refused)?;
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| refused())?;
                Point::P256(Box::new(key))
            }
            Scheme::Ed25519 | Scheme::Ed25519ph => {
                let point = der.strip_prefix(&ED25519_HEAD).ok_or_else(refused)?;
                let point: [u8; 32] = point.try_into().map_err(|_| refused())?;
                let key = VerifyingKey::from_bytes(&point).map_err(|_| refused())?;
                if key.is_weak() {
                    return Err(KeyError::Weak);
                }
                Point::Ed25519(key)
            }
        };
        Ok(Self { id: KeyId::of_encoding(&der), scheme, point, der })
    }

    /// The scheme that fits a PEM key when nobody named one: ECDSA for P-256, and cosign's Ed25519ph for Ed25519.
    ///
    /// # Errors
    /// A text that is neither.
    pub fn detect(text: &str) -> Result<Self, KeyError> {
        Self::parse(text, Scheme::EcdsaP256).or_else(|_| Self::parse(text, Scheme::Ed25519ph))
    }

    /// The canonical PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let body = STANDARD.encode(&self.der);
        let mut text = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in body.as_bytes().chunks(64) {
            text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
            text.push('\n');
        }
        text.push_str("-----END PUBLIC KEY-----\n");
        text
    }

    /// The name of this key: the beginning of its fingerprint.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// How this key signs.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// SHA-256 of the DER encoding.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// The key without its wrapping, which tells two keys apart.
    pub(crate) fn point_bytes(&self) -> &[u8] {
        match self.point {
            Point::P256(_) => &self.der[P256_HEAD.len()..],
            Point::Ed25519(_) => &self.der[ED25519_HEAD.len()..],
        }
    }

    /// Whether `signature` is this key's signature over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match (&self.point, self.scheme) {
            (Point::P256(key), _) => {
                let Ok(signature) = p256::ecdsa::Signature::from_der(signature) else { return false };
                key.verify_prehash(&Sha256::digest(message), &signature).is_ok()
            }
            (Point::Ed25519(key), scheme) => {
                let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
                if scheme == Scheme::Ed25519ph {
                    key.verify_prehashed_strict(Sha512::new_with_prefix(message), None, &signature).is_ok()
                } else {
                    key.verify_strict(message, &signature).is_ok()
                }
            }
        }
    }
}

impl fmt::Debug for PemKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PemKey({} {})", self.scheme, self.id)
    }
}
