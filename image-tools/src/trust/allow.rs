//! What a trust rule lets its images have beyond the defaults of an app: words such as `cap:NET_ADMIN`. They are only kept
//! here; what they mean is known to whoever runs the image. They hold for images that the rule accepted by signature.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::decide::{Acceptance, Basis, Grant};

/// Most words of a rule.
pub(crate) const ALLOW_MAX: usize = 256;

/// One thing that an image may ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allow {
    /// `cap:NET_ADMIN`: a capability, by the kernel's name without `CAP_`.
    Capability(String),
    /// `seccomp`: another system call filter than the default one, or none.
    Seccomp,
    /// `sysctl:net.core.somaxconn`: a namespaced kernel parameter.
    Sysctl(String),
    /// `rlimit:NOFILE`: a hard limit above the caller's, by the kernel's name without `RLIMIT_`.
    Rlimit(String),
    /// `oom-score`: an `oom_score_adj` below the caller's.
    OomScore,
    /// `cpu-shares`: more than the default share of CPU time.
    CpuShares,
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = |name: &str| {
            let good = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with("CAP_")
        };
        let key = |key: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
            (1..=255).contains(&key.len()) && key.bytes().all(good)
        };
        match text.split_once(':') {
            None if text == "seccomp" => Ok(Self::Seccomp),
            None if text == "oom-score" => Ok(Self::OomScore),
            None if text == "cpu-shares" => Ok(Self::CpuShares),
            Some(("cap", name)) if upper(name) => Ok(Self::Capability(name.to_owned())),
            Some(("rlimit", name)) if upper(name) => Ok(Self::Rlimit(name.to_owned())),
            Some(("sysctl", name)) if key(name) => Ok(Self::Sysctl(name.to_owned())),
            _ => {
                let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
                let known = "cap:NAME, rlimit:NAME, sysctl:KEY, seccomp, oom-score and cpu-shares";
                Err(format!("`{shown}` is nothing that a rule can allow; there are {known}"))
            }
        }
    }
}

impl TryFrom<String> for Allow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> Self {
        allow.to_string()
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capability(name) => write!(formatter, "cap:{name}"),
            Self::Seccomp => formatter.write_str("seccomp"),
            Self::Sysctl(key) => write!(formatter, "sysctl:{key}"),
            Self::Rlimit(name) => write!(formatter, "rlimit:{name}"),
            Self::OomScore => formatter.write_str("oom-score"),
            Self::CpuShares => formatter.write_str("cpu-shares"),
        }
    }
}

impl Acceptance {
    /// What the image may have beyond the defaults. The name that an image gives itself can only narrow, so of two rules only
    /// what both allow; and a rule allows nothing to an image that it did not accept by signature.
    #[must_use]
    pub fn allowed(&self) -> Vec<Allow> {
        let of = |grant: &Grant| match (&grant.basis, &grant.rule) {
            (Basis::Signed, Some((_, rule))) => rule.allow.clone(),
            _ => Vec::new(),
        };
        let mut allowed = of(&self.asked);
        if let Some(own) = &self.own {
            let others = of(own);
            allowed.retain(|allow| others.contains(allow));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ImageName;
    use crate::trust::{Prefix, Rule};

    #[test]
    fn words_are_strict() {
        for good in
            ["cap:NET_ADMIN", "rlimit:NOFILE", "sysctl:net.ipv4.ip_forward", "seccomp", "oom-score", "cpu-shares"]
        {
            assert_eq!(good.parse::<Allow>().map(|allow| allow.to_string()).as_deref(), Ok(good));
        }
        let bad = [
            "",
            "cap",
            "cap:",
            "cap:net_admin",
            "cap:CAP_KILL",
            "Seccomp",
            "seccomp:",
            "sysctl:a b",
            "devices",
            "all",
            "*",
        ];
        for bad in bad {
            assert!(bad.parse::<Allow>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_signed_images_get_what_all_their_rules_allow() {
        let grant = |basis, words: &[&str]| {
            let allow = words.iter().map(|word| word.parse().expect("a good word")).collect();
            let rule = Rule { allow, ..Rule::signed() };
            let prefix = Prefix::parse("a.b").expect("a prefix");
            let name = crate::trust::refusal::RuleName { prefix, level: crate::trust::Level::Local };
            let image = ImageName::parse("a.b/c").expect("a name");
            Grant { name: image, version: None, rule: Some((name, rule)), basis, keys: vec![], created: [].into() }
        };
        let allowed = |asked, own| {
            let allowed = Acceptance { asked, own }.allowed();
            allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let two = ["cap:NET_ADMIN", "seccomp"];
        assert_eq!(allowed(grant(Basis::Signed, &two), None), "cap:NET_ADMIN seccomp");
        assert_eq!(allowed(grant(Basis::Anything, &two), None), "");
        assert_eq!(allowed(grant(Basis::Pinned, &two), None), "");
        assert_eq!(
            allowed(grant(Basis::Signed, &two), Some(grant(Basis::Signed, &["seccomp", "oom-score"]))),
            "seccomp"
        );
        assert_eq!(allowed(grant(Basis::Signed, &two), Some(grant(Basis::Anything, &two))), "");
    }
}
