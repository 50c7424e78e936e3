//! Why an image may not run: one sentence for each reason, and the command that would change it.

use std::fmt;

use jiff::Timestamp;

use crate::digest::Digest;
use crate::key::KeyId;
use crate::name::{ImageName, Version};
use crate::provenance::{Came, Channel};
use crate::statement::Subject;

use super::{Level, Prefix, TrustError};

/// Which rule refused, for the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// The rule's prefix.
    pub prefix: Prefix,
    /// Who wrote it.
    pub level: Level,
}

impl fmt::Display for RuleName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} rule `{}`", self.level, self.prefix)
    }
}

/// Why a signature by a trusted key does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// The key is revoked.
    Revoked(String),
    /// The cryptographic check failed; the text says which part.
    Altered(String),
    /// It verifies, and what it signs is not a statement in its one spelling.
    Malformed(String),
    /// The statement names another key than the one that signed it.
    KeyName(KeyId),
    /// It is about an image of another name.
    Name(String),
    /// It carries no name, and the rule is about more than one.
    Nameless,
    /// It is about another version.
    Version(String),
    /// It is about another platform.
    Platform(String),
    /// It is about another manifest.
    Manifest(String),
    /// Its time is over.
    Expired(Timestamp),
    /// It was made in the future.
    Future(Timestamp),
    /// The rule trusts the key only for signatures made later.
    KeyNotYet(Timestamp),
    /// The rule trusts the key no longer.
    KeyOver(Timestamp),
    /// The key signed a newer image of this name and tag, and that one was accepted.
    Older {
        /// When this signature was made.
        created: Timestamp,
        /// When the one that was accepted was made.
        accepted: Timestamp,
    },
}

impl Flaw {
    /// The most telling flaw comes first when there are several.
    pub(crate) fn rank(&self) -> usize {
        match self {
            // All else is right with what is merely older.
            Self::Revoked(_) | Self::Older { .. } => 0,
            Self::Altered(_) => 1,
            Self::Malformed(_) | Self::KeyName(_) => 2,
            Self::Name(_) | Self::Nameless => 3,
            Self::Version(_) | Self::Platform(_) => 4,
            Self::Manifest(_) => 5,
            Self::Expired(_) | Self::Future(_) | Self::KeyNotYet(_) | Self::KeyOver(_) => 6,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked(reason) if reason.is_empty() => write!(formatter, "the key is revoked"),
            Self::Revoked(reason) => write!(formatter, "the key is revoked ({})", reason.escape_debug()),
            Self::Altered(what) => write!(formatter, "{what}: the signature or what it signs was changed"),
            Self::Malformed(what) => write!(formatter, "the signed statement is malformed: {what}"),
            Self::KeyName(key) => write!(formatter, "the statement says that key {key} signs it"),
            Self::Name(name) => write!(formatter, "the signature is for the image `{}`", name.escape_debug()),
            Self::Nameless => write!(formatter, "the signature is for no name, and the rule is about many names"),
            Self::Version(version) => write!(formatter, "the signature is for version `{}`", version.escape_debug()),
            Self::Platform(platform) => {
                write!(formatter, "the signature is for platform `{}`", platform.escape_debug())
            }
            Self::Manifest(manifest) => {
                write!(formatter, "the signature is for the manifest {}", manifest.escape_debug())
            }
            Self::Expired(time) => write!(formatter, "the signature expired at {time}"),
            Self::Future(time) => {
                write!(formatter, "the signature is not valid before {time}, when it says it was made")
            }
            Self::KeyNotYet(time) => {
                write!(formatter, "the rule trusts the key only for signatures made from {time} on")
            }
            Self::KeyOver(time) => write!(formatter, "the rule trusts the key only until {time}"),
            Self::Older { created, accepted } => {
                write!(formatter, "it is of {created}, and one of {accepted} was accepted before")
            }
        }
    }
}

/// Why an image was refused.
#[derive(Debug)]
pub struct Refusal {
    /// What was judged.
    pub image: Box<JudgedImage>,
    /// The reason.
    pub reason: Reason,
}

/// An image, and the name under which it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedImage {
    /// The name whose rule refuses.
    pub name: ImageName,
    /// The version under which the image was judged.
    pub version: Option<Version>,
    /// The name that was asked for, where the rule of another one refuses: that which the image gives itself.
    pub asked: Option<ImageName>,
    /// What the image says of itself.
    pub subject: Subject,
}

impl JudgedImage {
    /// The name with the version that was judged.
    fn reference(&self) -> String {
        let version = self.version.as_ref().map_or_else(String::new, |version| format!(":{version}"));
        format!("{}{version}", self.name)
    }
}

impl fmt::Display for JudgedImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "image `{}` ({})", self.reference(), self.subject.manifest)?;
        match &self.asked {
            Some(asked) => write!(formatter, ", which was asked for as `{asked}`,"),
            None if self.subject.name != self.name => write!(formatter, ", which calls itself `{}`,", self.subject),
            None => Ok(()),
        }
    }
}

/// The reason of a refusal.
#[derive(Debug)]
pub enum Reason {
    /// No rule is about the name.
    NoRule {
        /// The keys that the signatures say they are by.
        keys: Vec<KeyId>,
    },
    /// The rule accepts what a registry of the name gives out, and this did not come from there.
    Elsewhere {
        /// The rule.
        rule: RuleName,
        /// Where it came from.
        came: Vec<Came>,
    },
    /// The user named another digest.
    OtherDigest(Digest),
    /// The rule accepts no image.
    Forbidden(RuleName),
    /// The rule has no key, so nothing can satisfy it.
    NoKeys(RuleName),
    /// There is no signature at all.
    Unsigned(RuleName),
    /// All signatures are by keys that are trusted for no name.
    Untrusted {
        /// The rule, if one is about the name.
        rule: Option<RuleName>,
        /// The signing keys; empty when the signatures do not say.
        keys: Vec<KeyId>,
    },
    /// The signature is by a key that another rule trusts.
    OtherPrefix {
        /// The key.
        key: KeyId,
        /// Where it is trusted.
        trusted_for: Prefix,
    },
    /// A signature by a trusted key does not count.
    Flawed {
        /// The rule.
        rule: RuleName,
        /// The key.
        key: KeyId,
        /// What is wrong.
        flaw: Flaw,
    },
    /// Too few of the rule's keys signed.
    Threshold {
        /// The rule.
        rule: RuleName,
        /// How many it wants.
        wanted: usize,
        /// The keys whose signatures count.
        good: Vec<KeyId>,
        /// Why another signature does not count, if there is one.
        flaw: Option<(KeyId, Flaw)>,
    },
    /// A document that came as a signature is none.
    Malformed(String),
    /// The rules could not be read, so nothing is trusted.
    Rules(TrustError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = &self.image;
        match &self.reason {
            Reason::NoRule { .. } => write!(formatter, "{image} is covered by no trust rule"),
            Reason::Elsewhere { rule, came } => write!(
                formatter,
                "{image} is not signed, and {rule} accepts that only of a registry of that name over TLS; this came {}",
                how(came)
            ),
            Reason::OtherDigest(pin) => write!(formatter, "{image} is not {pin}, which was asked for"),
            Reason::Forbidden(rule) => write!(formatter, "{image} is refused by {rule}, which accepts no image"),
            Reason::NoKeys(rule) => write!(formatter, "{image} is refused by {rule}, which has no key"),
            Reason::Unsigned(rule) => write!(formatter, "{image} is not signed, and {rule} asks for a signature"),
            Reason::Untrusted { rule, keys } => {
                let rule = rule.as_ref().map_or_else(|| "any rule".to_owned(), ToString::to_string);
                match &keys[..] {
                    [] => write!(
                        formatter,
                        "{image} is signed by no key of {rule}: it is signed by an unknown key, or its signature was changed"
                    ),
                    [key] => write!(formatter, "{image} is signed by key {key}, which is not trusted by {rule}"),
                    keys => {
                        write!(
                            formatter,
                            "{image} is signed by keys {}, none of which is trusted by {rule}",
                            list(keys)
                        )
                    }
                }
            }
            Reason::OtherPrefix { key, trusted_for } => {
                write!(formatter, "{image} is signed by key {key}, which is trusted for `{trusted_for}` only")
            }
            Reason::Flawed { rule, key, flaw } => {
                write!(formatter, "{image} has a signature by key {key} of {rule} that does not count: {flaw}")
            }
            Reason::Threshold { rule, wanted, good, flaw } => {
                write!(
                    formatter,
                    "{image} is signed by {} of the {wanted} different keys that {rule} asks for ({})",
                    good.len(),
                    list(good)
                )?;
                match flaw {
                    Some((key, flaw)) => write!(formatter, "; the signature by key {key} does not count: {flaw}"),
                    None => Ok(()),
                }
            }
            Reason::Malformed(what) => write!(formatter, "{image} comes with a malformed signature: {what}"),
            Reason::Rules(error) => write!(formatter, "{image} cannot be judged: {error}"),
        }
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Rules(error) => error.source(),
            _ => None,
        }
    }
}

impl Refusal {
    /// What the user can do about it, as a clause with a command.
    #[must_use]
    pub fn hint(&self) -> String {
        let name = &self.image.name;
        let pin = format!("pin it as `{}@{}`", self.image.asked.as_ref().unwrap_or(name), self.image.subject.manifest);
        let once = "allow it for one run with `--insecure-options=image`";
        match &self.reason {
            Reason::NoRule { .. } => {
                format!("trust its publisher with `pod trust add --prefix {name} KEY.pub`, or {once}")
            }
            Reason::Elsewhere { .. } => {
                format!(
                    "get it there with `pod fetch --pull-policy=update {}`, {pin}, or {once}",
                    self.image.reference()
                )
            }
            Reason::OtherDigest(_) => format!("{pin} if that is the image you mean"),
            Reason::Forbidden(rule) => {
                let show = show(rule);
                format!("see `{show}`; a more specific rule for `{name}` would decide instead")
            }
            Reason::NoKeys(rule) => format!("add a key with `pod trust add --prefix {} KEY.pub`", rule.prefix),
            Reason::Unsigned(_) => {
                format!("sign it with `image-tools sign --key KEY.key FILE.pod`, {pin}, or {once}")
            }
            Reason::Untrusted { keys, .. } => {
                let file = keys.first().map_or_else(|| "KEY.pub".to_owned(), |key| format!("{key}.pub"));
                format!("if you know that key, trust it with `pod trust add --prefix {name} {file}`, or {once}")
            }
            Reason::OtherPrefix { key, .. } => {
                format!("if its owner may publish `{name}`, say so with `pod trust add --prefix {name} {key}.pub`")
            }
            Reason::Flawed { flaw, rule, .. } => self.flaw_hint(flaw, rule, &pin),
            Reason::Threshold { rule, .. } => {
                format!("have more keys of `{}` sign it with `image-tools sign`, or {once}", show(rule))
            }
            Reason::Malformed(_) => format!("get the image again from its publisher, or {once}"),
            Reason::Rules(TrustError::Exposed(exposed)) if exposed.hint().is_some() => {
                exposed.hint().unwrap_or_default()
            }
            Reason::Rules(_) => "`pod trust list` shows all rules and names the files".to_owned(),
        }
    }

    fn flaw_hint(&self, flaw: &Flaw, rule: &RuleName, pin: &str) -> String {
        let name = &self.image.name;
        match flaw {
            Flaw::Revoked(_) => "ask the publisher for an image signed by a key that is not revoked".to_owned(),
            Flaw::Altered(_) | Flaw::Malformed(_) | Flaw::KeyName(_) => {
                "get the image again from its publisher; it may have been tampered with".to_owned()
            }
            Flaw::Name(_) | Flaw::Version(_) => format!(
                "{pin} if that is the image you mean, or have it signed under this name with `image-tools sign --key \
                 KEY.key --name {} FILE.pod`",
                self.image.reference()
            ),
            Flaw::Nameless => format!("trust the key for this name alone with `pod trust add --prefix {name} KEY.pem`"),
            Flaw::Platform(_) | Flaw::Manifest(_) => {
                "the signature belongs to another image; have this one signed".to_owned()
            }
            Flaw::Expired(_) => "ask the publisher for a newer signature, or check the clock with `date`".to_owned(),
            Flaw::Future(_) => "check this machine's clock with `date`".to_owned(),
            Flaw::KeyNotYet(_) | Flaw::KeyOver(_) => {
                format!("see the key's times with `{}`", show(rule))
            }
            Flaw::Older { .. } => format!("if you mean to go back to it, say `--allow-downgrade`, or {pin}"),
        }
    }
}

/// How an image came here, as the end of a sentence.
fn how(came: &[Came]) -> String {
    let one = |came: &Came| match came {
        Came::Registry { channel: Channel::Http, .. } => "by plain http".to_owned(),
        Came::Registry { channel: Channel::Unverified, .. } => {
            "from a server whose certificate was not verified".to_owned()
        }
        Came::Registry { name, version, channel: Channel::Tls } => {
            format!("as `{name}{}`", version.as_ref().map_or_else(String::new, |version| format!(":{version}")))
        }
        Came::Web => "from the web".to_owned(),
        Came::File => "from a file".to_owned(),
        Came::Archive => "from an archive".to_owned(),
    };
    came.last().map_or_else(|| "from a place that is not recorded".to_owned(), one)
}

/// The command that shows a rule, as it can be pasted: `*` is a shell's own word.
fn show(rule: &RuleName) -> String {
    match &rule.prefix {
        Prefix::All => "pod trust show '*'".to_owned(),
        prefix @ Prefix::Under(_) => format!("pod trust show {prefix}"),
    }
}

fn list(keys: &[KeyId]) -> String {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    keys.join(", ")
}
