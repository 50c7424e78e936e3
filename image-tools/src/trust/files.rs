//! Rule files on disk: `trust.d` of the vendor and of the administrator, and the keys revoked in either.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::key::{KeyId, PublicKey};
use crate::ownership::{self, Exposed};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::rule::{RULE_BYTES_MAX, RuleKey, TrustedKey};
use super::{Prefix, Rule, TrustError};

/// Who wrote a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The administrator of this machine, in `/etc/pod/trust.d`.
    Local,
    /// The vendor of an installed package, in `/usr/lib/pod/trust.d`.
    System,
    /// Compiled into the program: the demo image's key.
    BuiltIn,
}

/// Where the rules are.
#[derive(Default, Debug, Clone)]
pub struct TrustDirs {
    system: PathBuf,
    local: PathBuf,
    /// Only the built-in rules count, and no file is read.
    built_in_only: bool,
    built_in: Vec<(Prefix, Rule)>,
    /// Set once the directories were found to be in the hands of root alone.
    checked: OnceLock<()>,
}

/// A rule and where it was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) prefix: Prefix,
    pub(crate) level: Level,
    pub(crate) rule: Rule,
}

/// A rule file as it is: a rule, or an empty file, which masks the vendor's rule.
pub(crate) enum FileState {
    Absent,
    Mask,
    Rule(Rule),
}

/// One of all rule files.
pub(crate) struct RuleFile {
    pub(crate) prefix: Prefix,
    pub(crate) level: Level,
    pub(crate) path: Option<PathBuf>,
    pub(crate) state: FileState,
}

impl TrustDirs {
    /// `trust.d` in the vendor's and in the administrator's configuration directory.
    #[must_use]
    pub fn new(system_config: &Path, local_config: &Path) -> Self {
        Self { system: system_config.join("trust.d"), local: local_config.join("trust.d"), ..Self::default() }
    }

    /// No directory at all: for what is judged by one key that is given, whatever the machine trusts.
    #[must_use]
    pub fn built_in_only() -> Self {
        Self { built_in_only: true, ..Self::default() }
    }

    /// Where files are, the administrator's first.
    fn directories(&self) -> impl Iterator<Item = (Level, &Path)> {
        let all = [(Level::Local, self.local.as_path()), (Level::System, self.system.as_path())];
        all.into_iter().filter(|_| !self.built_in_only)
    }

    /// Adds a key that is trusted for exactly one name, as if the vendor had said so; the administrator can mask it.
    ///
    /// # Errors
    /// A name that is none.
    pub fn with_built_in(mut self, name: &str, key: PublicKey) -> Result<Self, TrustError> {
        let key = RuleKey {
            key: TrustedKey::Minisign(key),
            not_before: None,
            not_after: None,
            comment: Some("built in".to_owned()),
        };
        let rule = Rule { exact: true, keys: vec![key], ..Rule::signed() };
        self.built_in.push((Prefix::parse(name)?, rule));
        Ok(self)
    }

    /// The configuration directories that the rules are part of, the administrator's first.
    #[must_use]
    pub fn configuration(&self) -> [&Path; 2] {
        [&self.local, &self.system].map(|directory| directory.parent().unwrap_or(directory))
    }

    pub(crate) fn directory(&self, level: Level) -> Option<&Path> {
        match level {
            Level::Local => Some(&self.local),
            Level::System => Some(&self.system),
            Level::BuiltIn => None,
        }
    }

    /// Whoever can change a rule, add one or take a revocation away decides what runs as root. Asked once, before the first
    /// file is read.
    fn check(&self) -> Result<(), Exposed> {
        if self.checked.get().is_some() {
            return Ok(());
        }
        for (_, directory) in self.directories() {
            ownership::check(directory)?;
            ownership::check_entry(&directory.join(REVOKED))?;
        }
        let _ = self.checked.set(()); // Another thread may have come to the same.
        Ok(())
    }

    /// The administrator's rule file for a prefix.
    pub(crate) fn local_file(&self, prefix: &Prefix) -> PathBuf {
        self.local.join(prefix.file_name())
    }

    /// The rule in force for exactly this prefix, if any.
    pub(crate) fn rule(&self, prefix: &Prefix) -> Result<Option<Found>, TrustError> {
        self.check()?;
        for (level, directory) in self.directories() {
            match read_rule(&directory.join(prefix.file_name()))? {
                FileState::Absent => {}
                FileState::Mask => return Ok(None),
                FileState::Rule(rule) => {
                    return Ok(Some(Found { prefix: prefix.clone(), level, rule }));
                }
            }
        }
        let built_in = self.built_in.iter().find(|(one, _)| one == prefix);
        Ok(built_in.map(|(prefix, rule)| Found { prefix: prefix.clone(), level: Level::BuiltIn, rule: rule.clone() }))
    }

    /// All rule files and built-in rules, masked ones included, the administrator's first.
    pub(crate) fn all(&self) -> Result<Vec<RuleFile>, TrustError> {
        self.check()?;
        let mut all = Vec::new();
        for (level, directory) in self.directories() {
            let mut names = match std::fs::read_dir(directory) {
                Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            }
            .map_err(|source| io_error("read", directory, source))?;
            names.sort();
            for name in names {
                let path = directory.join(&name);
                if name == REVOKED || name.to_str().is_some_and(|name| name.starts_with('.')) {
                    continue;
                }
                let prefix = name.to_str().and_then(Prefix::of_file_name).ok_or_else(|| TrustError::Rule {
                    path: path.display().to_string(),
                    reason: "the file name is no prefix: write `example.com+team.json` for `example.com/team`"
                        .to_owned(),
                })?;
                let state = read_rule(&path)?;
                all.push(RuleFile { prefix, level, path: Some(path), state });
            }
        }
        for (prefix, rule) in &self.built_in {
            let state = FileState::Rule(rule.clone());
            all.push(RuleFile { prefix: prefix.clone(), level: Level::BuiltIn, path: None, state });
        }
        Ok(all)
    }

    /// Why a key is revoked, if it is. Either directory is enough, and so is an empty file.
    pub(crate) fn revoked(&self, key: KeyId) -> Result<Option<String>, TrustError> {
        self.check()?;
        for (_, directory) in self.directories() {
            let path = directory.join(REVOKED).join(key.to_string());
            if let Some(text) = read(&path)? {
                return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
            }
        }
        Ok(None)
    }

    pub(crate) fn revocation_file(&self, key: KeyId) -> PathBuf {
        self.local.join(REVOKED).join(key.to_string())
    }
}

/// The directory of revoked keys, beside the rules.
const REVOKED: &str = "revoked";

/// Reads a rule file of a directory that was checked.
pub(crate) fn read_rule(path: &Path) -> Result<FileState, TrustError> {
    let Some(text) = read(path)? else { return Ok(FileState::Absent) };
    if text.is_empty() {
        return Ok(FileState::Mask);
    }
    let refused = |reason| TrustError::Rule { path: path.display().to_string(), reason };
    Rule::parse(&text).map(FileState::Rule).map_err(refused)
}

fn read(path: &Path) -> Result<Option<String>, TrustError> {
    // A FIFO here must not hang the start of a pod.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = |flags| rustix::fs::open(path, flags, Mode::empty());
    let opened = match open(flags | OFlags::NOFOLLOW) {
        // A link of the administrator's, into a directory that was not looked at yet.
        Err(Errno::LOOP) => ownership::check(path).map_err(TrustError::from).map(|()| open(flags))?,
        opened => opened,
    };
    let mut file = match opened {
        Ok(file) => std::fs::File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(io_error("open", path, errno.into())),
    };
    let refused = |reason: &str| TrustError::Rule { path: path.display().to_string(), reason: reason.to_owned() };
    let metadata = file.metadata().map_err(|source| io_error("read", path, source))?;
    if !metadata.is_file() {
        return Err(refused("not a regular file"));
    }
    ownership::check_file(&file, path)?;
    if metadata.len() > RULE_BYTES_MAX {
        return Err(refused("too large"));
    }
    let mut text = String::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.by_ref().take(RULE_BYTES_MAX).read_to_string(&mut text).map_err(|source| io_error("read", path, source))?;
    Ok(Some(text))
}

pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> TrustError {
    TrustError::Io { action, path: path.display().to_string(), source }
}
