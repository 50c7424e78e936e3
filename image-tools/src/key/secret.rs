//! Secret keys in minisign's file form, so that the same file works with that tool.
//!
//! The layout is minisign's `SeckeyStruct`: three algorithm names, salt, two limits, then key id, key and checksum, the
//! last three hidden by a stream that scrypt makes from the password.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::Blake2b;
use blake2::digest::Digest as _;
use blake2::digest::consts::U32;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::{ED25519, KeyId, PublicKey};

const LENGTH: usize = 158;
/// Where the hidden part begins: after three algorithm names, a salt and two limits.
const HIDDEN: usize = 54;
const SCRYPT: [u8; 2] = *b"Sc";
const PLAIN: [u8; 2] = [0, 0];
const CHECKSUM: [u8; 2] = *b"B2";
/// The limits written into new files: 128 MiB and half a second. They are in the file, so minisign follows them.
const OPERATIONS: u64 = 1 << 22;
const MEMORY_BYTES: u64 = 1 << 27;
/// minisign's own default needs 1 GiB; a file that asks for more is not one that a person made.
const MEMORY_BYTES_MAX: u64 = 1 << 31;
const OPERATIONS_MAX: u64 = 1 << 28;

/// A password, wiped from memory when dropped.
pub type Password = Zeroizing<String>;

/// Why a secret key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SecretKeyError {
    /// Not a minisign secret key file.
    #[error("not a minisign secret key file: {0}")]
    Format(&'static str),
    /// The checksum under the password's stream is wrong.
    #[error("wrong password for this secret key")]
    Password,
    /// The file is encrypted and there was nobody to ask.
    #[error("this secret key is encrypted: a password is needed")]
    PasswordNeeded,
    /// The kernel gave no random bytes.
    #[error("no random bytes from the kernel")]
    Entropy,
}

/// An Ed25519 key pair.
pub struct SecretKey {
    id: KeyId,
    key: SigningKey,
}

impl SecretKey {
    /// A new pair with a random key and a random id, as minisign makes them.
    ///
    /// # Errors
    /// When the kernel has no random bytes.
    pub fn generate() -> Result<Self, SecretKeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        let mut id = [0; 8];
        getrandom::fill(seed.as_mut()).map_err(|_| SecretKeyError::Entropy)?;
        getrandom::fill(&mut id).map_err(|_| SecretKeyError::Entropy)?;
        Ok(Self { id: KeyId::from_bytes(id), key: SigningKey::from_bytes(&seed) })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::new(self.id, self.key.verifying_key())
    }

    /// The name of this pair.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn signing(&self) -> &SigningKey {
        &self.key
    }

    /// Whether the text of a secret key file needs a password.
    #[must_use]
    pub fn is_encrypted(text: &str) -> bool {
        decode(text).is_ok_and(|bytes| bytes[2..4] == SCRYPT)
    }

    /// Reads a secret key file.
    ///
    /// # Errors
    /// A file that minisign would not have written, an encrypted one without `password`, or a wrong password.
    pub fn parse(text: &str, password: Option<&str>) -> Result<Self, SecretKeyError> {
        let mut bytes = decode(text)?;
        if bytes[..2] != ED25519 || bytes[4..6] != CHECKSUM {
            return Err(SecretKeyError::Format("unknown algorithm"));
        }
        let encrypted = match [bytes[2], bytes[3]] {
            SCRYPT => true,
            PLAIN => false,
            _ => return Err(SecretKeyError::Format("unknown key derivation")),
        };
        if encrypted {
            let password = password.ok_or(SecretKeyError::PasswordNeeded)?;
            hide(&mut bytes, password)?;
        }
        // minisign leaves the checksum out of unencrypted keys; the key still carries both of its halves.
        let unchecked = !encrypted && bytes[126..158] == [0; 32];
        if !unchecked && *checksum(&bytes) != bytes[126..158] {
            return Err(if encrypted { SecretKeyError::Password } else { SecretKeyError::Format("wrong checksum") });
        }
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[54..62]);
        let mut pair = Zeroizing::new([0; 64]);
        pair.copy_from_slice(&bytes[62..126]);
        let key = SigningKey::from_keypair_bytes(&pair)
            .map_err(|_| SecretKeyError::Format("the public half does not fit the secret half"))?;
        Ok(Self { id: KeyId::from_bytes(id), key })
    }

    /// The text of the secret key file, encrypted when there is a password.
    ///
    /// # Errors
    /// When the kernel has no random bytes for the salt.
    pub fn to_file(&self, password: Option<&str>) -> Result<Zeroizing<String>, SecretKeyError> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        bytes[..2].copy_from_slice(&ED25519);
        bytes[2..4].copy_from_slice(if password.is_some() { &SCRYPT } else { &PLAIN });
        bytes[4..6].copy_from_slice(&CHECKSUM);
        bytes[54..62].copy_from_slice(self.id.as_bytes());
        bytes[62..126].copy_from_slice(Zeroizing::new(self.key.to_keypair_bytes()).as_ref());
        let sum = checksum(&bytes);
        bytes[126..158].copy_from_slice(sum.as_ref());
        if let Some(password) = password {
            getrandom::fill(&mut bytes[6..38]).map_err(|_| SecretKeyError::Entropy)?;
            bytes[38..46].copy_from_slice(&OPERATIONS.to_le_bytes());
            bytes[46..54].copy_from_slice(&MEMORY_BYTES.to_le_bytes());
            hide(&mut bytes, password)?;
        }
        let kind = if password.is_some() { "encrypted " } else { "" };
        let line = Zeroizing::new(STANDARD.encode(bytes.as_ref()));
        Ok(Zeroizing::new(format!("untrusted comment: minisign {kind}secret key\n{}\n", line.as_str())))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SecretKey({})", self.id)
    }
}

fn decode(text: &str) -> Result<Zeroizing<[u8; LENGTH]>, SecretKeyError> {
    let (comment, line) = text.split_once('\n').ok_or(SecretKeyError::Format("two lines are expected"))?;
    if !comment.starts_with("untrusted comment: ") {
        return Err(SecretKeyError::Format("the first line must begin with `untrusted comment: `"));
    }
    let line = line.strip_suffix('\n').unwrap_or(line);
    let bytes =
        Zeroizing::new(STANDARD.decode(line).map_err(|_| SecretKeyError::Format("the second line is not base64"))?);
    let mut fixed = Zeroizing::new([0; LENGTH]);
    if bytes.len() != LENGTH {
        return Err(SecretKeyError::Format("wrong length"));
    }
    fixed.copy_from_slice(&bytes);
    Ok(fixed)
}

/// BLAKE2b-256 of algorithm, key id and key.
fn checksum(bytes: &[u8; LENGTH]) -> Zeroizing<[u8; 32]> {
    let mut hash = Blake2b::<U32>::new();
    hash.update(&bytes[..2]);
    hash.update(&bytes[54..126]);
    Zeroizing::new(hash.finalize().into())
}

/// Hides, or shows again, the last part of the file: both are the same exclusive or.
fn hide(bytes: &mut [u8; LENGTH], password: &str) -> Result<(), SecretKeyError> {
    let number = |range: std::ops::Range<usize>| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[range]);
        u64::from_le_bytes(number)
    };
    let params = parameters(number(38..46), number(46..54))?;
    let mut stream = Zeroizing::new([0; LENGTH - HIDDEN]);
    scrypt::scrypt(password.as_bytes(), &bytes[6..38], &params, stream.as_mut())
        .map_err(|_| SecretKeyError::Format("impossible scrypt parameters"))?;
    for (byte, mask) in bytes[HIDDEN..].iter_mut().zip(stream.iter()) {
        *byte ^= mask;
    }
    Ok(())
}

/// libsodium's choice of scrypt parameters for a number of operations and an amount of memory.
fn parameters(operations: u64, memory_bytes: u64) -> Result<scrypt::Params, SecretKeyError> {
    if operations > OPERATIONS_MAX || memory_bytes > MEMORY_BYTES_MAX {
        return Err(SecretKeyError::Format("the password limits ask for too much"));
    }
    let operations = operations.max(32768);
    let block: u64 = 8;
    let logarithm = |limit: u64| (1..63_u8).find(|log| 1_u64 << log > limit / 2).unwrap_or(63);
    let (log, parallel) = if operations < memory_bytes / 32 {
        (logarithm(operations / (block * 4)), 1)
    } else {
        let log = logarithm(memory_bytes / (block * 128));
        (log, ((operations / 4) >> log).min(0x3fff_ffff) / block)
    };
    let parallel = u32::try_from(parallel).map_err(|_| SecretKeyError::Format("impossible scrypt parameters"))?;
    scrypt::Params::new(log, 8, parallel).map_err(|_| SecretKeyError::Format("impossible scrypt parameters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_round_trip_with_and_without_password() {
        let key = SecretKey::generate().expect("entropy");
        for password in [None, Some("correct horse")] {
            let file = key.to_file(password).expect("file");
            assert_eq!(SecretKey::is_encrypted(&file), password.is_some());
            let back = SecretKey::parse(&file, password).expect("own file");
            assert_eq!(back.public(), key.public());
        }
        let file = key.to_file(Some("a")).expect("file");
        assert!(matches!(SecretKey::parse(&file, None), Err(SecretKeyError::PasswordNeeded)));
        assert!(matches!(SecretKey::parse(&file, Some("b")), Err(SecretKeyError::Password)));
    }

    #[test]
    fn damaged_files_are_refused() {
        let file = SecretKey::generate().expect("entropy").to_file(None).expect("file").to_string();
        for bad in ["", "x", "untrusted comment: x\n", &file[1..], &file[..file.len() - 4]] {
            assert!(SecretKey::parse(bad, None).is_err(), "{bad}");
        }
        let line = file.lines().nth(1).expect("two lines");
        let mut bytes = STANDARD.decode(line).expect("base64");
        for at in [0, 2, 4, 54, 62, 100, 126, 157] {
            bytes[at] ^= 1;
            let text = format!("untrusted comment: x\n{}\n", STANDARD.encode(&bytes));
            assert!(SecretKey::parse(&text, None).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn password_limits_are_those_of_libsodium() {
        // minisign's default, ours, and the interactive limits of libsodium.
        for (operations, memory, log, parallel) in
            [(1 << 25, 1 << 30, 20, 1), (OPERATIONS, MEMORY_BYTES, 17, 1), (524_288, 1 << 24, 14, 1)]
        {
            let params = parameters(operations, memory).expect("sane");
            assert_eq!((params.log_n(), params.r(), params.p()), (log, 8, parallel));
        }
        assert!(parameters(1 << 25, 1 << 40).is_err());
    }
}
