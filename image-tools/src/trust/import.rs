//! Rules made from a `containers-policy.json` (podman, skopeo, buildah), all of it or nothing.
//!
//! What cannot be said by our rules is refused, never skipped: a policy that lost a clause on the way would be another one.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::marker::PhantomData;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::key::{PemKey, Scheme};

use super::edit::{lock, save};
use super::files::{FileState, read_rule};
use super::rule::TrustedKey;
use super::{Accept, Entry, Prefix, Rule, RuleKey, TrustDirs, TrustError};

/// The only transport whose names our names are.
const DOCKER: &str = "docker";
/// A transport for which there is no source here, so what the policy says about it can neither allow nor forbid anything.
const DAEMON: &str = "docker-daemon";

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: Unique<Unique<Vec<Requirement>>>,
}

#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Requirement {
    InsecureAcceptAnything {},
    Reject {},
    #[serde(rename_all = "camelCase")]
    SigstoreSigned {
        key_path: Option<String>,
        key_paths: Option<Vec<String>>,
        key_data: Option<String>,
        key_datas: Option<Vec<String>>,
        signed_identity: Option<Identity>,
        fulcio: Option<serde::de::IgnoredAny>,
        pki: Option<serde::de::IgnoredAny>,
        rekor_public_key_path: Option<serde::de::IgnoredAny>,
        rekor_public_key_paths: Option<serde::de::IgnoredAny>,
        rekor_public_key_data: Option<serde::de::IgnoredAny>,
        rekor_public_key_datas: Option<serde::de::IgnoredAny>,
    },
}

#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Identity {
    MatchRepoDigestOrExact {},
    MatchRepository {},
    #[serde(rename_all = "camelCase")]
    #[serde(rename = "remapIdentity")]
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

/// A JSON object in which no name may stand twice.
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Names<V> {
            type Value = Unique<V>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if values.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice in one object"));
                    }
                }
                Ok(Unique(values))
            }
        }
        deserializer.deserialize_map(Names(PhantomData))
    }
}

/// Writes a rule for each scope of the policy. The key files that it names are read now, and never again.
///
/// # Errors
/// A clause that our rules cannot say, a rule that exists already for one of the scopes, `default` or an empty scope that
/// accepts anything without `root`; in all cases nothing is written.
pub fn import_policy(dirs: &TrustDirs, text: &str, root: bool) -> Result<Vec<Entry>, TrustError> {
    let rules = policy_rules(text, root)?;
    let _lock = lock(dirs)?;
    for (prefix, rule) in &rules {
        let path = dirs.local_file(prefix);
        match read_rule(&path)? {
            FileState::Rule(old) if old == *rule => {}
            FileState::Absent => {}
            FileState::Rule(_) | FileState::Mask => {
                return Err(refused(format!("there is a rule for `{prefix}` already, in {}", path.display())));
            }
        }
    }
    rules.iter().map(|(prefix, rule)| save(dirs, prefix, rule)).collect()
}

fn refused(what: impl fmt::Display) -> TrustError {
    TrustError::Change(format!("the policy cannot be imported: {what}"))
}

/// The rules that say what a policy says, and nothing wider. Key files are read; nothing is written.
///
/// # Errors
/// As for [`import_policy`].
pub fn policy_rules(text: &str, root: bool) -> Result<Vec<(Prefix, Rule)>, TrustError> {
    let policy: PolicyText = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
    let mut rules = Vec::new();
    let mut every_name = Some(policy.default);
    for (transport, scopes) in policy.transports.0 {
        if transport == DAEMON {
            continue;
        }
        if transport != DOCKER {
            return Err(refused(format!("rules for the transport `{}` have no equal here", transport.escape_debug())));
        }
        for (scope, requirements) in scopes.0 {
            if scope.is_empty() {
                every_name = Some(requirements);
                continue;
            }
            let prefix = Prefix::parse(&scope).ok().filter(|prefix| *prefix != Prefix::All).ok_or_else(|| {
                refused(format!("the scope `{}` is no prefix of whole components", scope.escape_debug()))
            })?;
            let rule = rule(&prefix, requirements).map_err(|what| refused(format!("scope `{prefix}`: {what}")))?;
            rules.push((prefix, rule));
        }
    }
    if let Some(requirements) = every_name {
        let rule = rule(&Prefix::All, requirements).map_err(|what| refused(format!("default: {what}")))?;
        if rule.accept != Accept::Nothing && !root {
            return Err(refused(
                "its default trusts somebody for every image; give `--root` if that is meant".to_owned(),
            ));
        }
        rules.push((Prefix::All, rule));
    }
    Ok(rules)
}

/// All requirements of a scope must hold: that is one of a kind, or single keys of which each must have signed.
fn rule(prefix: &Prefix, requirements: Vec<Requirement>) -> Result<Rule, String> {
    let count = requirements.len();
    let mut rule = Rule { threshold: count, ..Rule::signed() };
    for requirement in requirements {
        let keys = match requirement {
            Requirement::InsecureAcceptAnything {} if count == 1 => {
                return Ok(Rule { accept: Accept::Anything, ..Rule::signed() });
            }
            Requirement::Reject {} if count == 1 => return Ok(Rule { accept: Accept::Nothing, ..Rule::signed() }),
            Requirement::InsecureAcceptAnything {} | Requirement::Reject {} => {
                return Err("`insecureAcceptAnything` and `reject` beside other requirements".to_owned());
            }
            Requirement::SigstoreSigned {
                key_path,
                key_paths,
                key_data,
                key_datas,
                signed_identity,
                fulcio: None,
                pki: None,
                rekor_public_key_path: None,
                rekor_public_key_paths: None,
                rekor_public_key_data: None,
                rekor_public_key_datas: None,
            } => {
                let (signed_as, tags) = identity(prefix, signed_identity)?;
                if rule.keys.is_empty() {
                    (rule.signed_as, rule.tags) = (signed_as, tags);
                } else if (&rule.signed_as, rule.tags) != (&signed_as, tags) {
                    return Err("requirements with different identities".to_owned());
                }
                let paths = key_path.into_iter().chain(key_paths.into_iter().flatten());
                let mut keys = paths
                    .map(|path| read_key(Path::new(&path)).map_err(|error| format!("key `{path}`: {error}")))
                    .collect::<Result<Vec<_>, _>>()?;
                for data in key_data.into_iter().chain(key_datas.into_iter().flatten()) {
                    let bytes = STANDARD.decode(data).map_err(|_| "key data that is not base64")?;
                    keys.push(String::from_utf8(bytes).map_err(|_| "key data that is not PEM")?);
                }
                keys
            }
            Requirement::SigstoreSigned { .. } => {
                return Err("`fulcio`, `pki` and `rekor` ask for certificates and logs, not for keys".to_owned());
            }
        };
        if keys.is_empty() || (count > 1 && keys.len() > 1) {
            return Err("each of several requirements must have exactly one key".to_owned());
        }
        for text in keys {
            // podman verifies Ed25519 keys in their pure form only.
            let key = PemKey::parse(&text, Scheme::EcdsaP256).or_else(|_| PemKey::parse(&text, Scheme::Ed25519));
            let key = TrustedKey::Pem(key.map_err(|_| "a key that is neither ECDSA P-256 nor Ed25519")?);
            if rule.keys.iter().any(|other| other.key.same_key(&key)) {
                return Err("a key stands twice".to_owned());
            }
            rule.keys.push(RuleKey { key, not_before: None, not_after: None, comment: None });
        }
    }
    if rule.keys.is_empty() {
        return Err("no requirement".to_owned());
    }
    Ok(rule)
}

/// What a signature must be called: the name prefix that stands in place of the scope, and whether the tag counts.
fn identity(prefix: &Prefix, identity: Option<Identity>) -> Result<(Option<String>, bool), String> {
    match identity {
        // Also what holds where nothing is said. Signatures that carry no tag are then good for digests only.
        None | Some(Identity::MatchRepoDigestOrExact {}) => Ok((None, true)),
        Some(Identity::MatchRepository {}) => Ok((None, false)),
        Some(Identity::Remap { prefix: from, signed_prefix }) if from == prefix.to_string() => {
            Prefix::parse(&signed_prefix).map_err(|error| error.to_string())?;
            Ok((Some(signed_prefix), true))
        }
        Some(Identity::Remap { prefix: from, .. }) => {
            Err(format!("`remapIdentity` of `{}`, which is not the scope", from.escape_debug()))
        }
    }
}

fn read_key(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(64 << 10).read_to_string(&mut text)?;
    Ok(text)
}
