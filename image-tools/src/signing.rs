//! Making key pairs and signatures, for `image-tools keygen` and `image-tools sign`.
//!
//! Run by a publisher on their own machine, with no privilege. A secret key is read only here, is wiped from memory after
//! use, and its file is never readable by anybody else: one that is would be refused.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::key::{KeyError, Password, PublicKey, SecretKey, SecretKeyError};
use crate::minisign::{Minisig, MinisignError};
use crate::signature::Signature;
use crate::statement::{Statement, StatementError, Subject};

/// Largest key file read.
const KEY_BYTES_MAX: u64 = 64 << 10;
const PASSWORD_BYTES_MAX: usize = 1024;

/// Why keys or signatures were not made.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The system said no.
    #[error("{action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A secret key that others can read.
    #[error("secret key `{0}` can be read by other users")]
    Exposed(String),
    /// A secret key file that is none.
    #[error("secret key `{path}`")]
    Secret {
        /// The file.
        path: String,
        /// Why.
        source: SecretKeyError,
    },
    /// A public key file that is none.
    #[error("public key `{path}`: {reason}")]
    Public {
        /// The file.
        path: String,
        /// Why.
        reason: KeyError,
    },
    /// No random bytes.
    #[error("make a key: {0}")]
    Generate(SecretKeyError),
    /// The image's own words cannot be signed.
    #[error("sign the image")]
    Statement(#[from] StatementError),
    /// The comment cannot be signed.
    #[error("sign the image")]
    Minisign(#[from] MinisignError),
}

impl SigningError {
    /// Advice, where there is some.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed(path) => Some(format!("if nobody else has it yet, run `chmod 600 {path}`")),
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                Some(format!("a key is never overwritten; remove `{path}` if it is not needed any more"))
            }
            _ => None,
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SigningError {
    move |source| SigningError::Io { action, path: path.display().to_string(), source }
}

/// Makes `BASE.key`, mode 0600, and `BASE.pub`, one line; neither file may exist before.
///
/// # Errors
/// Files that exist, or that cannot be written.
pub fn keygen(base: &Path, password: Option<&str>) -> Result<PublicKey, SigningError> {
    let key = SecretKey::generate().map_err(SigningError::Generate)?;
    let secret = key.to_file(password).map_err(SigningError::Generate)?;
    let (secret_path, public_path) = (with_suffix(base, ".key"), with_suffix(base, ".pub"));
    create(&public_path, 0o644, format!("{}\n", key.public().to_line()).as_bytes())?;
    if let Err(error) = create(&secret_path, 0o600, secret.as_bytes()) {
        let _ = std::fs::remove_file(&public_path); // It is ours, and useless without the secret half.
        return Err(error);
    }
    Ok(key.public())
}

fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), SigningError> {
    let mut file =
        File::options().write(true).create_new(true).mode(mode).open(path).map_err(io_error("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", path))
}

/// Reads a `.key` file. `ask` is called only if it is encrypted.
///
/// # Errors
/// A file that others can read, that is no key, and a wrong password.
pub fn read_secret(path: &Path, ask: impl FnOnce() -> io::Result<Password>) -> Result<SecretKey, SigningError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("read", path))?;
    if metadata.mode() & 0o077 != 0 && metadata.is_file() {
        return Err(SigningError::Exposed(path.display().to_string()));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(io_error("read", path))?;
    let secret = |source| SigningError::Secret { path: path.display().to_string(), source };
    if SecretKey::is_encrypted(&text) {
        let password = ask().map_err(io_error("ask for the password of", path))?;
        return SecretKey::parse(&text, Some(&password)).map_err(secret);
    }
    SecretKey::parse(&text, None).map_err(secret)
}

/// Reads a `.pub` file.
///
/// # Errors
/// A file that cannot be read or is no public key.
pub fn read_public(path: &Path) -> Result<PublicKey, SigningError> {
    let mut text = String::new();
    let file = File::open(path).map_err(io_error("open", path))?;
    file.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(io_error("read", path))?;
    PublicKey::parse(&text).map_err(|reason| SigningError::Public { path: path.display().to_string(), reason })
}

/// Signs a statement about an image.
///
/// # Errors
/// Words that no statement can hold, and an expiry that is over already.
pub fn sign(
    key: &SecretKey,
    subject: &Subject,
    created: Timestamp,
    expires: Option<Timestamp>,
) -> Result<Signature, SigningError> {
    let statement = Statement::new(subject.clone(), created, expires, key.id())?.to_text();
    // For people who check with minisign: the comment says what the statement says.
    let comment = format!("{subject} {}", subject.manifest);
    let minisig = Minisig::sign(key, statement.as_bytes(), &comment)?.to_text();
    Ok(Signature::Pod { statement, minisig })
}

/// Asks for a password on the terminal, without showing it.
///
/// # Errors
/// When there is no terminal to ask on.
pub fn ask_password(prompt: &str) -> io::Result<Password> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let shown = tcgetattr(&terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    terminal.write_all(crate::escape::escape(prompt).as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    let line = read_line(&mut terminal);
    tcsetattr(&terminal, OptionalActions::Flush, &shown)?;
    terminal.write_all(b"\n")?;
    line
}

fn read_line(input: &mut impl io::Read) -> io::Result<Password> {
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX));
    let mut byte = [0];
    while input.read(&mut byte)? == 1 && byte[0] != b'\n' {
        if line.len() == PASSWORD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the password is too long"));
        }
        line.push(byte[0]);
    }
    let text = std::str::from_utf8(&line).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let base = directory.path().join("my.name");
        let public = keygen(&base, None).expect("keygen");
        let secret_path = directory.path().join("my.name.key");
        let mode = std::fs::metadata(&secret_path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let unasked = || -> io::Result<Password> { panic!("nobody is asked") };
        assert_eq!(read_secret(&secret_path, unasked).expect("read").public(), public);
        let public_path = directory.path().join("my.name.pub");
        assert_eq!(std::fs::read_to_string(&public_path).expect("file").lines().count(), 1);
        assert_eq!(read_public(&public_path).expect("read"), public);
        let again = keygen(&base, None).expect_err("exists");
        assert!(again.hint().is_some_and(|hint| hint.contains("never overwritten")), "{again}");
        std::fs::set_permissions(&secret_path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(read_secret(&secret_path, unasked), Err(SigningError::Exposed(_))));
    }

    #[test]
    fn encrypted_keys_ask() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let base = directory.path().join("k");
        let public = keygen(&base, Some("secret")).expect("keygen");
        let path = directory.path().join("k.key");
        let right = read_secret(&path, || read_line(&mut &b"secret\nrest"[..])).expect("read");
        assert_eq!(right.public(), public);
        let wrong = read_secret(&path, || read_line(&mut &b"wrong"[..])).expect_err("wrong");
        assert!(matches!(wrong, SigningError::Secret { source: SecretKeyError::Password, .. }), "{wrong}");
    }
}
