//! `pod trust`: showing and changing who may publish what.

use crate::arguments::commands::Format;
use crate::arguments::globals::Globals;
use crate::arguments::trust_commands::{Names, Trust, TrustAdd};
use crate::escape::escape;
use crate::failure::Failure;
use anyhow::{Context, Result};
use contract::kernel::{Capability, Resource};
use image_tools::key::{KeyId, Scheme};
use image_tools::name::ImageName;
use image_tools::obtain::Insecure;
use image_tools::trust::{self, AddOptions, Allow, Entry, Prefix, TrustDirs, TrustedKey};
use jiff::Timestamp;
use std::io::{BufRead as _, Read as _, Write as _};
use std::path::Path;

/// Largest file read: policies and rotations are small.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Does what was asked and returns what belongs on stdout.
pub(crate) fn run(globals: &Globals, command: &Trust) -> Result<String> {
    let dirs = crate::images::trust_dirs(globals)?;
    match command {
        Trust::Add(add) => self::add(globals, &dirs, add),
        Trust::List(list) => shown(&trust::list(&dirs)?, list.format.format),
        Trust::Show(show) => shown(&covering(&dirs, &show.name)?, show.format.format),
        Trust::Allow(allow) => {
            for word in &allow.words {
                known(word)?;
            }
            trust::allow(&dirs, &prefix(&allow.names)?, &allow.words, allow.take_back)?;
            Ok(String::new())
        }
        Trust::Rm(remove) => {
            trust::remove(&dirs, &prefix(&remove.names)?, KeyId::parse(&remove.key)?)?;
            Ok(String::new())
        }
        Trust::Revoke(revoke) => {
            trust::revoke(&dirs, KeyId::parse(&revoke.key)?, &revoke.reason)?;
            Ok(String::new())
        }
        Trust::Rotate(rotate) => {
            let entry = trust::rotate(&dirs, &read(&rotate.file)?, Timestamp::now())?;
            Ok(format!("{}\n", entry.prefix))
        }
        Trust::ImportPolicy(import) => {
            let entries = trust::import_policy(&dirs, &read(&import.file)?, import.root)?;
            Ok(entries.iter().fold(String::new(), |text, entry| text + &entry.prefix + "\n"))
        }
    }
}

/// A name that no kernel knows would be allowed in vain.
fn known(word: &Allow) -> Result<(), Failure> {
    let known = match word {
        Allow::Capability(name) => Capability::from_name(&format!("CAP_{name}")).is_some(),
        Allow::Rlimit(name) => Resource::from_name(&format!("RLIMIT_{name}")).is_some(),
        _ => true,
    };
    known.then_some(()).ok_or_else(|| Failure::usage(format!("`{word}` names nothing that the kernel has")))
}

fn add(globals: &Globals, dirs: &TrustDirs, add: &TrustAdd) -> Result<String> {
    let options = AddOptions {
        scheme: add.scheme.as_deref().map(Scheme::parse).transpose()?,
        threshold: add.threshold,
        inherit: add.inherit.then_some(true),
        audit: add.audit.then_some(true),
        not_before: add.not_before,
        not_after: add.not_after,
        comment: add.comment.clone(),
        root: add.names.root,
    };
    let prefix = prefix(&add.names)?;
    let (place, key) = match &add.key {
        Some(path) => (path.display().to_string(), read(path)?),
        None => discovered(globals, &prefix, add.fingerprint.as_deref())?,
    };
    let entry = trust::add(dirs, &prefix, &key, &options).with_context(|| format!("key `{}`", escape(&place)))?;
    // The key that was added is the last one of its rule.
    Ok(entry.keys.last().map_or_else(String::new, |key| format!("{}\n", key.id)))
}

/// A key from the web, which counts only if its fingerprint is known, or a person at the terminal says yes to it.
fn discovered(globals: &Globals, prefix: &Prefix, fingerprint: Option<&str>) -> Result<(String, String)> {
    let name = ImageName::parse(&prefix.to_string())
        .map_err(|_| Failure::usage("a key for this prefix must be given as a file"))?;
    let insecure = globals.insecure();
    let insecure = Insecure { image: false, tls: insecure.tls, http: insecure.http };
    let keys = crate::images::open(globals)?.discover_keys(&name, insecure).map_err(crate::images::failure)?;
    let mut seen = Vec::new();
    for (url, text) in keys {
        let Ok(key) = TrustedKey::parse(&text, None) else { continue };
        let yes = match fingerprint {
            Some(fingerprint) => fingerprint == key.fingerprint(),
            None => confirmed(prefix, &url, &key)?,
        };
        if yes {
            return Ok((url, text));
        }
        seen.push(key.fingerprint());
    }
    let failure = Failure::new(format!("no key for `{prefix}` was found on the web and accepted"));
    Err(match &seen[..] {
        [] => failure.hint("get the key from its owner and name its file"),
        seen => failure.hint(format!("compare with what the owner says: found {}", seen.join(", "))),
    }
    .into())
}

/// Asks the person at the terminal; without one, nobody says yes.
fn confirmed(prefix: &Prefix, url: &str, key: &TrustedKey) -> Result<bool> {
    let Ok(mut terminal) = std::fs::File::options().read(true).write(true).open("/dev/tty") else {
        let failure = Failure::new(format!("a key from the web for `{prefix}` needs somebody who says yes to it"));
        return Err(failure.hint("there is no terminal; name the key by `--fingerprint`, or give its file").into());
    };
    let (id, fingerprint) = (key.id(), key.fingerprint());
    write!(terminal, "key {id} from {}\nfingerprint {fingerprint}\ntrust it for `{prefix}`? (yes/no) ", escape(url))?;
    let mut answer = String::new();
    std::io::BufReader::new(terminal).take(64).read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

fn prefix(names: &Names) -> Result<Prefix> {
    match &names.prefix {
        None => Ok(Prefix::All),
        Some(text) if text == "*" => {
            let failure = Failure::usage("the prefix `*` is every image");
            Err(failure.hint("say `--root` instead of `--prefix` if that is meant").into())
        }
        Some(text) => Ok(Prefix::parse(text)?),
    }
}

/// The rules that cover a name, the most specific first, without masked ones.
fn covering(dirs: &TrustDirs, name: &str) -> Result<Vec<Entry>> {
    let prefixes: Vec<String> = match ImageName::parse(name) {
        Ok(name) => Prefix::covering(&name).map(|prefix| prefix.to_string()).collect(),
        Err(_) => vec![Prefix::parse(name)?.to_string()],
    };
    let mut entries = trust::list(dirs)?;
    // The first of the prefixes is the name itself, which is all that an exact rule is about.
    let covers = |entry: &Entry| prefixes.iter().position(|prefix| *prefix == entry.prefix);
    entries.retain(|entry| !entry.masked && covers(entry).is_some_and(|place| place == 0 || !entry.exact));
    entries.sort_by_key(covers);
    if entries.is_empty() {
        let failure = Failure::new(format!("no trust rule covers `{}`", escape(name)));
        return Err(failure.hint(format!("`pod trust add --prefix {} KEY.pub` makes one", escape(name))).into());
    }
    Ok(entries)
}

fn shown(entries: &[Entry], format: Format) -> Result<String> {
    match format {
        Format::Json => Ok(serde_json::to_string(entries)? + "\n"),
        Format::JsonPretty => Ok(serde_json::to_string_pretty(entries)? + "\n"),
        Format::Table => Ok(entries.iter().fold(String::new(), |text, entry| text + &table(entry))),
    }
}

/// One line for the rule and one for each key.
fn table(entry: &Entry) -> String {
    let mut words = vec![entry.level.clone()];
    let accept = serde_json::to_value(entry.accept).ok();
    match accept.as_ref().and_then(serde_json::Value::as_str) {
        Some("signed") | None => words.push(format!("{} of {} keys", entry.threshold, entry.keys.len())),
        Some(other) => words.push(format!("accepts {other}")),
    }
    let flags = [
        (entry.masked, "masked"),
        (entry.inherit, "inherits"),
        (entry.exact, "this name only"),
        (entry.audit, "only reports"),
        (entry.tags, "tags are signed"),
    ];
    words.extend(flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word.to_owned()));
    words.extend(entry.signed_as.as_ref().map(|name| format!("signed as {name}")));
    if !entry.allow.is_empty() {
        let allow = entry.allow.iter().map(ToString::to_string).collect::<Vec<_>>();
        words.push(format!("allows {}", allow.join(" ")));
    }
    words.extend((entry.rotation > 0).then(|| format!("rotation {}", entry.rotation)));
    let mut text = format!("{}  {}\n", entry.prefix, words.join(", "));
    for key in &entry.keys {
        let mut line = format!("  {} {} {}", key.id, key.scheme, key.fingerprint);
        let times = [("from", &key.not_before), ("until", &key.not_after)];
        for (word, time) in times.into_iter().filter_map(|(word, time)| Some((word, time.as_ref()?))) {
            line.push_str(&format!(" {word} {time}"));
        }
        if key.revoked {
            line.push_str(" revoked");
        }
        if key.scheme != Scheme::Minisign.as_str() {
            line.push_str(" (signatures without a time: older images are not refused)");
        }
        if let Some(comment) = &key.comment {
            line.push_str(&format!(" ({})", escape(comment)));
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn read(path: &Path) -> Result<String> {
    let what = || format!("read `{}`", escape(&path.display().to_string()));
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(what)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(what)?;
    Ok(text)
}
