//! The environment of an app. From low to high: `--inherit-env` (never overrides), the image, `--set-env-file`,
//! `--set-env`, `--environment`; and a few variables that every program may rely on, where nobody set them.

use crate::arguments::pod_flags::PodFlags;
use crate::failure::Failure;
use crate::pod_json::Facts;
use std::collections::HashSet;

/// What programs of all images are found by, when the image does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables for all apps of the pod.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// `--set-env-file`, then `--set-env`.
    set: Vec<(String, String)>,
    /// `--inherit-env`
    inherited: Vec<(String, String)>,
}

/// What the pod's flags say, checked once for all apps.
pub(crate) fn shared(flags: &PodFlags, facts: &Facts) -> Result<Shared, Failure> {
    let mut keys = HashSet::new();
    for (key, _) in &flags.set_env {
        if !keys.insert(key) {
            return Err(Failure::usage(format!("`--set-env`: key `{}` is already set", key.escape_debug())));
        }
    }
    let set = facts.environment_files.iter().chain(&flags.set_env).cloned().collect();
    let inherited = if flags.inherit_env { facts.environment.clone() } else { Vec::new() };
    Ok(Shared { set, inherited })
}

/// What is said about one app.
pub(crate) struct Own<'a> {
    /// Of the image.
    pub(crate) image: &'a [(String, String)],
    /// `--environment`, without a value: the caller's.
    pub(crate) flags: &'a [(String, Option<String>)],
    /// Set where nobody else did.
    pub(crate) defaults: Vec<(String, String)>,
}

/// The complete environment of one app.
pub(crate) fn resolve(shared: &Shared, own: &Own<'_>, facts: &Facts) -> Vec<(String, String)> {
    let mut list = List::default();
    own.image.iter().chain(&shared.set).for_each(|(key, value)| list.set(key, value));
    for (key, value) in own.flags {
        match value {
            Some(value) => list.set(key, value),
            // podman's rule: a name alone takes the caller's value, and nothing if the caller has none.
            None => {
                facts.environment.iter().filter(|(name, _)| name == key).for_each(|(_, value)| list.set(key, value));
            }
        }
    }
    shared.inherited.iter().for_each(|(key, value)| list.set_default(key, value));
    list.set_default("PATH", PATH);
    own.defaults.iter().for_each(|(key, value)| list.set_default(key, value));
    list.entries
}

#[derive(Default)]
struct List {
    entries: Vec<(String, String)>,
}

impl List {
    fn set(&mut self, key: &str, value: &str) {
        match self.entries.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.entries.push((key.to_owned(), value.to_owned())),
        }
    }

    fn set_default(&mut self, key: &str, value: &str) {
        if !self.entries.iter().any(|(known, _)| known == key) {
            self.entries.push((key.to_owned(), value.to_owned()));
        }
    }
}

/// The lines of an environment file: `KEY=VALUE`; blank lines and those that start with `#` or `;` are skipped.
pub(crate) fn parse_file(text: &str, name: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let entry = crate::values::key_value(line)
            .map_err(|error| Failure::new(format!("environment file `{name}`, line {}: {error}", index + 1)))?;
        if entries.iter().any(|(key, _)| *key == entry.0) {
            let key = entry.0.escape_debug();
            return Err(Failure::new(format!("environment variable `{key}` is already set in file `{name}`")));
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn precedence() {
        let facts = Facts { environment: pairs(&[("A", "caller"), ("ONLY", "caller")]), ..Facts::default() };
        let shared = Shared {
            set: pairs(&[("A", "file"), ("B", "file"), ("B", "set"), ("C", "set")]),
            inherited: facts.environment.clone(),
        };
        let image = pairs(&[("A", "image"), ("I", "image")]);
        let flags = [("C".to_owned(), Some("app".to_owned())), ("ONLY".to_owned(), None), ("NONE".to_owned(), None)];
        let own = Own { image: &image, flags: &flags, defaults: pairs(&[("I", "default"), ("D", "default")]) };
        let all = resolve(&shared, &own, &facts);
        let expected = [
            ("A", "file"),
            ("I", "image"),
            ("B", "set"),
            ("C", "app"),
            ("ONLY", "caller"),
            ("PATH", PATH),
            ("D", "default"),
        ];
        assert_eq!(all, pairs(&expected));
    }

    #[test]
    fn inherited_never_override() {
        let shared = Shared { set: Vec::new(), inherited: pairs(&[("A", "caller"), ("PATH", "/caller")]) };
        let image = pairs(&[("A", "image")]);
        let own = Own { image: &image, flags: &[], defaults: Vec::new() };
        assert_eq!(resolve(&shared, &own, &Facts::default()), pairs(&[("A", "image"), ("PATH", "/caller")]));
    }

    #[test]
    fn files() {
        assert_eq!(parse_file("A=1\n\n# c\n; d\nB=x=y\n", "f").unwrap(), pairs(&[("A", "1"), ("B", "x=y")]));
        for bad in ["A", "=1", "A=1\nA=2"] {
            assert!(parse_file(bad, "f").is_err(), "{bad}");
        }
    }
}
