//! Keys as people hold them: Ed25519 pairs in minisign's file forms, and the PEM keys of cosign.
//!
//! A key id is eight bytes that the owner of a key chose, so it is a name and never a proof: wherever keys are counted or
//! compared, the key itself is compared. Nothing here opens a file; the callers read and write.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};

mod pem;
mod secret;

#[cfg(test)]
pub(crate) use pem::{ED25519_HEAD, P256_HEAD};
pub use pem::{PemKey, Scheme};
pub use secret::{Password, SecretKey, SecretKeyError};

/// The algorithm bytes that open a minisign public key, secret key and legacy signature.
pub(crate) const ED25519: [u8; 2] = *b"Ed";

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text has neither one nor two lines.
    #[error("a public key file has one line of base64, with or without a comment line above it")]
    Lines,
    /// The first of two lines is not a comment.
    #[error("the first of two lines must begin with `untrusted comment: `")]
    Comment,
    /// The line is not base64 of 42 bytes.
    #[error("the key line is not base64 of a minisign public key")]
    Encoding,
    /// The first two bytes name another algorithm.
    #[error("the key is not an Ed25519 key")]
    Algorithm,
    /// The bytes are no point of the curve, or one that verifies anything.
    #[error("the key is not a sound Ed25519 public key")]
    Weak,
    /// A PEM text that is not a public key of the kind asked for.
    #[error("the PEM text is not a public key of scheme `{0}`")]
    Pem(Scheme),
    /// The key id is not sixteen hexadecimal digits.
    #[error("a key id is sixteen upper-case hexadecimal digits")]
    Id,
    /// The scheme is not one of those known.
    #[error("unknown signature scheme `{0}` (known: minisign, ecdsa-p256, ed25519, ed25519ph)")]
    Scheme(String),
}

/// Eight bytes that name a key, printed as minisign prints them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// The id stored in a key or signature file.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The bytes as key and signature files store them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Sixteen upper-case hexadecimal digits, the only spelling.
    ///
    /// # Errors
    /// Any other text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
        if text.len() != 16 || !digits {
            return Err(KeyError::Id);
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| KeyError::Id)?;
        Ok(Self(number.to_le_bytes()))
    }

    /// The id of a key that has none of its own: the first bytes of the hash of its encoding.
    pub(crate) fn of_encoding(bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        id.reverse();
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// An Ed25519 public key in minisign's form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    point: VerifyingKey,
}

impl PublicKey {
    pub(crate) fn new(id: KeyId, point: VerifyingKey) -> Self {
        Self { id, point }
    }

    /// The key of a `.pub` file: one line of base64, or minisign's two lines.
    ///
    /// # Errors
    /// Any other text, and keys of small order, which would verify signatures that nobody made.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let line = match text.split_once('\n') {
            None => text,
            Some((comment, line)) if comment.starts_with("untrusted comment: ") => line,
            Some(_) => return Err(KeyError::Comment),
        };
        if line.contains('\n') {
            return Err(KeyError::Lines);
        }
        let bytes = STANDARD.decode(line).map_err(|_| KeyError::Encoding)?;
        let bytes: [u8; 42] = bytes.try_into().map_err(|_| KeyError::Encoding)?;
        if bytes[..2] != ED25519 {
            return Err(KeyError::Algorithm);
        }
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[2..10]);
        let mut point = [0; 32];
        point.copy_from_slice(&bytes[10..]);
        let point = VerifyingKey::from_bytes(&point).map_err(|_| KeyError::Weak)?;
        if point.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self { id: KeyId(id), point })
    }

    /// The one line that [`PublicKey::parse`] reads, without a line end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut bytes = Vec::with_capacity(42);
        bytes.extend_from_slice(&ED25519);
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(self.point.as_bytes());
        STANDARD.encode(bytes)
    }

    /// The name of this key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn point(&self) -> &VerifyingKey {
        &self.point
    }

    /// The hash of the key, long enough to be compared by a person before trusting a key from the network.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.point.as_bytes())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({})", self.id)
    }
}

pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}"); // Writing to a String cannot fail.
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_have_one_spelling() {
        let id = KeyId::parse("0123456789ABCDEF").expect("valid");
        assert_eq!(id.to_string(), "0123456789ABCDEF");
        assert_eq!(id.as_bytes()[0], 0xEF);
        for bad in
            ["", "0123456789abcdef", "0123456789ABCDE", "0123456789ABCDEF0", "+123456789ABCDEF", "é123456789ABCDE"]
        {
            assert_eq!(KeyId::parse(bad), Err(KeyError::Id), "{bad}");
        }
    }

    #[test]
    fn public_keys_are_read_in_both_forms() {
        let key = SecretKey::generate().expect("entropy").public();
        let line = key.to_line();
        let forms = [line.clone(), format!("{line}\n"), format!("untrusted comment: x\n{line}\n")];
        for form in forms {
            assert_eq!(PublicKey::parse(&form), Ok(key), "{form}");
        }
        assert_eq!(PublicKey::parse(&format!("{line}\n{line}\n")), Err(KeyError::Comment));
        assert_eq!(PublicKey::parse(&format!("untrusted comment: x\n{line}\n\n")), Err(KeyError::Lines));
        assert_eq!(PublicKey::parse(&format!(" {line}")), Err(KeyError::Encoding));
        assert_eq!(PublicKey::parse(&line[..52]), Err(KeyError::Encoding));
        assert_eq!(PublicKey::parse(""), Err(KeyError::Encoding));
        assert_eq!(PublicKey::parse(&line.replacen("RW", "RU", 1)), Err(KeyError::Algorithm));
    }

    #[test]
    fn keys_of_small_order_are_refused() {
        for point in [[0_u8; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let mut bytes = b"Ed01234567".to_vec();
            bytes.extend_from_slice(&point);
            assert_eq!(PublicKey::parse(&STANDARD.encode(bytes)), Err(KeyError::Weak));
        }
    }
}
