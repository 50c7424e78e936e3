//! Changing and showing the rules. Only the administrator's files are ever written; a vendor's rule is changed by a copy
//! that masks it. Every file is complete when it appears, and two changes at once wait for each other.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::key::{KeyId, Scheme};

use super::allow::Allow;
use super::files::{FileState, RuleFile, io_error};
use super::rule::TrustedKey;
use super::{Accept, Level, Prefix, Rule, RuleKey, TrustDirs, TrustError};

/// How a key is added.
#[derive(Debug, Clone, Default)]
pub struct AddOptions {
    /// The scheme of a PEM key; needed only for pure Ed25519.
    pub scheme: Option<Scheme>,
    /// Sets the rule's threshold.
    pub threshold: Option<usize>,
    /// Sets whether the rule inherits.
    pub inherit: Option<bool>,
    /// Sets whether the rule only reports.
    pub audit: Option<bool>,
    /// Signatures made earlier do not count.
    pub not_before: Option<Timestamp>,
    /// From then on the key does not count.
    pub not_after: Option<Timestamp>,
    /// Kept with the key.
    pub comment: Option<String>,
    /// The prefix `*` is meant: the key may publish every image.
    pub root: bool,
}

/// A rule as it is shown, also as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The prefix, `*` for every name.
    pub prefix: String,
    /// `local`, `system` or `built-in`.
    pub level: String,
    /// The file; absent for built-in rules.
    pub path: Option<PathBuf>,
    /// A file of the administrator stands in front of this rule.
    pub masked: bool,
    /// `signed`, `anything` or `nothing`.
    pub accept: Accept,
    /// How many different keys must have signed.
    pub threshold: usize,
    /// Keys of less specific rules count too.
    pub inherit: bool,
    /// Only the prefix itself is meant.
    pub exact: bool,
    /// Refusals are only reported.
    pub audit: bool,
    /// The name prefix that foreign signatures carry.
    pub signed_as: Option<String>,
    /// Foreign signatures must carry the tag that is asked for.
    pub tags: bool,
    /// Version of the last rotation.
    pub rotation: u64,
    /// What its signed images may have beyond the defaults.
    pub allow: Vec<Allow>,
    /// The keys.
    pub keys: Vec<KeyEntry>,
}

/// A key as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct KeyEntry {
    /// Sixteen digits.
    pub id: String,
    /// How it signs.
    pub scheme: String,
    /// SHA-256 of the key.
    pub fingerprint: String,
    /// Signatures made earlier do not count.
    pub not_before: Option<String>,
    /// From then on the key does not count.
    pub not_after: Option<String>,
    /// It is revoked: its signatures never count.
    pub revoked: bool,
    /// What the administrator noted.
    pub comment: Option<String>,
}

/// Trusts a key for a prefix and returns the rule as it is now.
///
/// # Errors
/// The prefix `*` without the word that it is meant, a key that is none, a revoked key, another key of the same id, and
/// files that cannot be written.
pub fn add(dirs: &TrustDirs, prefix: &Prefix, key: &str, options: &AddOptions) -> Result<Entry, TrustError> {
    if *prefix == Prefix::All && !options.root {
        return Err(TrustError::Change(
            "a key for every image is unbounded trust; give a prefix, or `--root` if it is meant".to_owned(),
        ));
    }
    let key = TrustedKey::parse(key, options.scheme)?;
    if dirs.revoked(key.id())?.is_some() {
        return Err(TrustError::Change(format!("key {} is revoked", key.id())));
    }
    if let (Some(from), Some(until)) = (options.not_before, options.not_after)
        && until <= from
    {
        return Err(TrustError::Change("the key's time ends before it begins".to_owned()));
    }
    let _lock = lock(dirs)?;
    let mut rule = match dirs.rule(prefix)? {
        Some(found) if found.rule.accept == Accept::Signed => found.rule,
        Some(_) | None => Rule::signed(),
    };
    // An exact built-in rule, once copied, would silently not be about the names below the prefix.
    rule.exact = false;
    if rule.keys.iter().any(|other| other.key.id() == key.id() && !other.key.same_key(&key)) {
        return Err(TrustError::Change(format!("rule `{prefix}` has another key with the id {}", key.id())));
    }
    rule.keys.retain(|other| !other.key.same_key(&key));
    rule.keys.push(RuleKey {
        key,
        not_before: options.not_before,
        not_after: options.not_after,
        comment: options.comment.clone(),
    });
    rule.threshold = options.threshold.unwrap_or(rule.threshold);
    rule.inherit = options.inherit.unwrap_or(rule.inherit);
    rule.audit = options.audit.unwrap_or(rule.audit);
    save(dirs, prefix, &rule)
}

/// Lets the images that a rule accepts by signature have more than the defaults, or, with `take_back`, no longer.
///
/// # Errors
/// No rule for exactly that prefix, or one that asks for no signature; and files that cannot be written.
pub fn allow(dirs: &TrustDirs, prefix: &Prefix, words: &[Allow], take_back: bool) -> Result<Entry, TrustError> {
    let _lock = lock(dirs)?;
    let Some(found) = dirs.rule(prefix)? else {
        return Err(TrustError::Change(format!("there is no trust rule for exactly `{prefix}`")));
    };
    let mut rule = found.rule;
    if rule.accept != Accept::Signed {
        return Err(TrustError::Change(format!(
            "the rule for `{prefix}` asks for no signature, so it can allow nothing"
        )));
    }
    rule.allow.retain(|known| !words.contains(known));
    if !take_back {
        rule.allow.extend(words.iter().cloned());
    }
    rule.allow.sort();
    rule.allow.dedup();
    save(dirs, prefix, &rule)
}

/// Trusts a key no longer for a prefix.
///
/// # Errors
/// No rule for exactly that prefix, a key that it does not have, and files that cannot be written.
pub fn remove(dirs: &TrustDirs, prefix: &Prefix, key: KeyId) -> Result<(), TrustError> {
    let _lock = lock(dirs)?;
    let Some(mut found) = dirs.rule(prefix)? else {
        return Err(TrustError::Change(format!("there is no trust rule for exactly `{prefix}`")));
    };
    let before = found.rule.keys.len();
    found.rule.keys.retain(|other| other.key.id() != key);
    if found.rule.keys.len() == before {
        return Err(TrustError::Change(format!("the rule for `{prefix}` does not have key {key}")));
    }
    if !found.rule.keys.is_empty() {
        return save(dirs, prefix, &found.rule).map(|_| ());
    }
    let path = dirs.local_file(prefix);
    let below = match found.level {
        // Without the file, a rule of the vendor for the same prefix would come back.
        Level::Local => dirs.all()?.iter().any(|file| file.prefix == *prefix && file.level != Level::Local),
        Level::System | Level::BuiltIn => true,
    };
    if below {
        return write(&path, b"");
    }
    std::fs::remove_file(&path).map_err(|source| io_error("remove", &path, source))
}

/// Revokes a key: from now on, none of its signatures counts, whatever rule names it.
///
/// # Errors
/// A reason of more than one line, and files that cannot be written.
pub fn revoke(dirs: &TrustDirs, key: KeyId, reason: &str) -> Result<(), TrustError> {
    if reason.chars().any(char::is_control) {
        return Err(TrustError::Change("the reason must be one line".to_owned()));
    }
    let _lock = lock(dirs)?;
    let path = dirs.revocation_file(key);
    write(&path, format!("{reason}\n").as_bytes())
}

/// All rules, the administrator's first, masked ones marked.
///
/// # Errors
/// Files that are no rules: they are named rather than left out.
pub fn list(dirs: &TrustDirs) -> Result<Vec<Entry>, TrustError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen: Vec<Prefix> = Vec::new();
    for RuleFile { prefix, level, path, state } in dirs.all()? {
        let masked = seen.contains(&prefix);
        seen.push(prefix.clone());
        if let FileState::Rule(rule) = state {
            entries.push(Entry { masked, ..entry(dirs, &prefix, level, path, &rule)? });
        }
    }
    Ok(entries)
}

fn entry(
    dirs: &TrustDirs,
    prefix: &Prefix,
    level: Level,
    path: Option<PathBuf>,
    rule: &Rule,
) -> Result<Entry, TrustError> {
    let mut keys = Vec::with_capacity(rule.keys.len());
    for key in &rule.keys {
        keys.push(KeyEntry {
            id: key.key.id().to_string(),
            scheme: key.key.scheme().to_string(),
            fingerprint: key.key.fingerprint(),
            not_before: key.not_before.map(|time| time.to_string()),
            not_after: key.not_after.map(|time| time.to_string()),
            revoked: dirs.revoked(key.key.id())?.is_some(),
            comment: key.comment.clone(),
        });
    }
    Ok(Entry {
        prefix: prefix.to_string(),
        level: level.to_string(),
        path,
        masked: false,
        accept: rule.accept,
        threshold: rule.threshold,
        inherit: rule.inherit,
        exact: rule.exact,
        audit: rule.audit,
        signed_as: rule.signed_as.clone(),
        tags: rule.tags,
        rotation: rule.rotation,
        allow: rule.allow.clone(),
        keys,
    })
}

/// Writes the administrator's rule for a prefix. The caller holds the lock.
pub(crate) fn save(dirs: &TrustDirs, prefix: &Prefix, rule: &Rule) -> Result<Entry, TrustError> {
    if rule.accept == Accept::Signed && !rule.inherit && rule.threshold > rule.keys.len() {
        return Err(TrustError::Change(format!(
            "rule `{prefix}` would ask for {} keys and have {}",
            rule.threshold,
            rule.keys.len()
        )));
    }
    let path = dirs.local_file(prefix);
    let text = rule.to_text();
    // What we write must be what we read: a rule that cannot be read refuses everything.
    Rule::parse(&text).map_err(|reason| TrustError::Rule { path: path.display().to_string(), reason })?;
    write(&path, text.as_bytes())?;
    entry(dirs, prefix, Level::Local, Some(path), rule)
}

/// Waits for other changes of the rules to be done.
pub(crate) fn lock(dirs: &TrustDirs) -> Result<File, TrustError> {
    let directory = dirs.directory(Level::Local).expect("the administrator has a directory");
    std::fs::create_dir_all(directory).map_err(|source| io_error("create", directory, source))?;
    let lock = File::open(directory).map_err(|source| io_error("open", directory, source))?;
    lock.lock().map_err(|source| io_error("lock", directory, source))?;
    Ok(lock)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
    let directory = path.parent().expect("rule files are in a directory");
    let name = path.file_name().expect("rule files have a name").to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        std::fs::create_dir_all(directory)?;
        let _ = std::fs::remove_file(&temporary); // Left by a process of the same number that was killed.
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|source| {
        let _ = std::fs::remove_file(&temporary); // The reason is reported; the next write removes it otherwise.
        io_error("write", path, source)
    })
}
