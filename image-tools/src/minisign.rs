//! minisign's detached signature file, the form in which our signatures exist on disk and travel.
//!
//! Four lines: an untrusted comment, the signature over the BLAKE2b-512 hash of the message, a trusted comment, and a global
//! signature over signature and trusted comment. Only the prehashed form `ED` is made and accepted; the legacy form `Ed`
//! signs the raw message with the same key, and accepting both would let one be passed off as the other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest as _};
use ed25519_dalek::Signer as _;

use crate::key::{ED25519, KeyId, PublicKey, SecretKey};

/// The algorithm bytes of a prehashed signature.
const PREHASHED: [u8; 2] = *b"ED";
const UNTRUSTED: &str = "untrusted comment: ";
const TRUSTED: &str = "trusted comment: ";
/// minisign's own limit on the trusted comment.
const COMMENT_BYTES_MAX: usize = 8192;

/// Why a signature file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MinisignError {
    /// The text is not four lines in minisign's form.
    #[error("not a minisign signature: {0}")]
    Format(&'static str),
    /// The legacy form, which signs the message itself.
    #[error("legacy minisign signature (`Ed`); sign with minisign 0.10 or later, which prehashes")]
    Legacy,
    /// Another key made the signature.
    #[error("the signature is by key {found}, not {expected}")]
    OtherKey {
        /// The key that was to verify it.
        expected: KeyId,
        /// The key named in the signature.
        found: KeyId,
    },
    /// The message or the signature was changed.
    #[error("the signature by key {0} does not match what it signs")]
    Message(KeyId),
    /// The trusted comment was changed.
    #[error("the trusted comment of the signature by key {0} was changed")]
    Comment(KeyId),
}

/// A parsed signature file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minisig {
    untrusted_comment: String,
    id: KeyId,
    signature: [u8; 64],
    trusted_comment: String,
    global: [u8; 64],
}

impl Minisig {
    /// Signs `message`. The trusted comment is for people; nothing here reads it back.
    ///
    /// # Errors
    /// A comment with a control character, or longer than minisign reads.
    pub fn sign(key: &SecretKey, message: &[u8], trusted_comment: &str) -> Result<Self, MinisignError> {
        check_comment(trusted_comment)?;
        let signature = key.signing().sign(&Blake2b512::digest(message)).to_bytes();
        let global = key.signing().sign(&[&signature, trusted_comment.as_bytes()].concat()).to_bytes();
        Ok(Self {
            untrusted_comment: format!("signature from key {}", key.id()),
            id: key.id(),
            signature,
            trusted_comment: trusted_comment.to_owned(),
            global,
        })
    }

    /// Reads the four lines; nothing but them is accepted.
    ///
    /// # Errors
    /// Anything that minisign would not have written, and the legacy algorithm.
    pub fn parse(text: &str) -> Result<Self, MinisignError> {
        let refused = MinisignError::Format;
        let text = text.strip_suffix('\n').ok_or(refused("the last line has no end"))?;
        let lines: Vec<&str> = text.splitn(5, '\n').collect();
        let [untrusted, signature, trusted, global] = lines[..] else {
            return Err(refused("four lines are expected"));
        };
        let untrusted = untrusted.strip_prefix(UNTRUSTED).ok_or(refused("no untrusted comment"))?;
        let trusted = trusted.strip_prefix(TRUSTED).ok_or(refused("no trusted comment"))?;
        check_comment(untrusted)?;
        check_comment(trusted)?;
        let bytes = STANDARD.decode(signature).map_err(|_| refused("the signature is not base64"))?;
        let bytes: [u8; 74] = bytes.try_into().map_err(|_| refused("the signature has a wrong length"))?;
        match [bytes[0], bytes[1]] {
            PREHASHED => {}
            ED25519 => return Err(MinisignError::Legacy),
            _ => return Err(refused("unknown algorithm")),
        }
        let global = STANDARD.decode(global).map_err(|_| refused("the global signature is not base64"))?;
        let global = global.try_into().map_err(|_| refused("the global signature has a wrong length"))?;
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[2..10]);
        let mut signature = [0; 64];
        signature.copy_from_slice(&bytes[10..]);
        Ok(Self {
            untrusted_comment: untrusted.to_owned(),
            id: KeyId::from_bytes(id),
            signature,
            trusted_comment: trusted.to_owned(),
            global,
        })
    }

    /// The four lines, for `x.minisig` beside a file `x`.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(74);
        bytes.extend_from_slice(&PREHASHED);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.signature);
        format!(
            "{UNTRUSTED}{}\n{}\n{TRUSTED}{}\n{}\n",
            self.untrusted_comment,
            STANDARD.encode(bytes),
            self.trusted_comment,
            STANDARD.encode(self.global)
        )
    }

    /// The key that the signature says it was made with.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// What the signer wrote for people to read. Meaningful only after [`Minisig::verify`].
    #[must_use]
    pub fn trusted_comment(&self) -> &str {
        &self.trusted_comment
    }

    /// Checks both signatures, refusing every malleable form of them.
    ///
    /// # Errors
    /// A signature by another key, over another message, or with another trusted comment.
    pub fn verify(&self, key: &PublicKey, message: &[u8]) -> Result<(), MinisignError> {
        if key.id() != self.id {
            return Err(MinisignError::OtherKey { expected: key.id(), found: self.id });
        }
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        let hash = Blake2b512::digest(message);
        key.point().verify_strict(&hash, &signature).map_err(|_| MinisignError::Message(self.id))?;
        let global = ed25519_dalek::Signature::from_bytes(&self.global);
        let signed = [&self.signature, self.trusted_comment.as_bytes()].concat();
        key.point().verify_strict(&signed, &global).map_err(|_| MinisignError::Comment(self.id))
    }
}

/// A control character in a comment would be a second line for one reader and none for another.
fn check_comment(comment: &str) -> Result<(), MinisignError> {
    if comment.len() > COMMENT_BYTES_MAX {
        return Err(MinisignError::Format("a comment is too long"));
    }
    if comment.chars().any(|letter| letter.is_control() && letter != '\t') {
        return Err(MinisignError::Format("a comment has a control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> (SecretKey, Minisig) {
        let key = SecretKey::generate().expect("entropy");
        let minisig = Minisig::sign(&key, b"message", "name sha256:1").expect("clean comment");
        (key, minisig)
    }

    #[test]
    fn a_signature_survives_its_text() {
        let (key, minisig) = signed();
        let back = Minisig::parse(&minisig.to_text()).expect("own text");
        assert_eq!(back, minisig);
        assert_eq!(back.verify(&key.public(), b"message"), Ok(()));
        assert_eq!(back.verify(&key.public(), b"massage"), Err(MinisignError::Message(key.id())));
        let other = SecretKey::generate().expect("entropy");
        let error = back.verify(&other.public(), b"message");
        assert_eq!(error, Err(MinisignError::OtherKey { expected: other.id(), found: key.id() }));
    }

    #[test]
    fn every_flipped_bit_of_the_signed_lines_is_refused() {
        let (key, minisig) = signed();
        let text = minisig.to_text();
        let from = text.find('\n').expect("lines");
        for at in from..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                let accepted = Minisig::parse(&text).is_ok_and(|sig| sig.verify(&key.public(), b"message").is_ok());
                assert!(!accepted, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_trusted_comment_of_another_signature_is_refused() {
        let (key, minisig) = signed();
        let other = Minisig::sign(&key, b"message", "other").expect("clean comment");
        let mixed = Minisig { trusted_comment: other.trusted_comment, ..minisig };
        assert_eq!(mixed.verify(&key.public(), b"message"), Err(MinisignError::Comment(key.id())));
    }

    #[test]
    fn legacy_and_odd_texts_are_refused() {
        let (_, minisig) = signed();
        let text = minisig.to_text();
        // `RU` is base64 of `ED`, `RW` of `Ed`.
        assert_eq!(Minisig::parse(&text.replacen("\nRU", "\nRW", 1)), Err(MinisignError::Legacy));
        let extra = format!("{text}\n");
        for bad in [
            "",
            "\n",
            text.trim_end(),
            extra.as_str(),
            &text.replace("\ntrusted", "\r\ntrusted"),
            &text.replace("trusted comment", "comment"),
        ] {
            assert!(matches!(Minisig::parse(bad), Err(MinisignError::Format(_))), "{bad:?}");
        }
        assert!(Minisig::sign(&SecretKey::generate().expect("entropy"), b"", "a\nb").is_err());
    }
}
