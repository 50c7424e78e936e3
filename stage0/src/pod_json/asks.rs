//! What an image asks for beyond the defaults of an app.
//!
//! An image can only narrow its confinement. What it asks for beyond the defaults is given by a flag of the user, or by the
//! trust rule that accepted the image by signature (`allow`); else the pod is refused with the flag that would give it.

use crate::failure::Failure;
use image_tools::trust::Allow;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The limits and priorities of the process that started pod, from which the apps begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfCaller {
    /// Hard limits by the number of the resource; absent: infinity, or a resource that this kernel does not have.
    pub(crate) hard_limits: std::collections::BTreeMap<u32, u64>,
    /// `/proc/self/oom_score_adj`
    pub(crate) oom_score_adj: i32,
}

/// The asks of one image, and what its rule answers.
#[derive(Debug)]
pub(crate) struct Asks<'a> {
    allowed: &'a [Allow],
    /// The prefix of the rule that accepted the image by signature.
    prefix: Option<&'a str>,
    granted: RefCell<BTreeSet<Allow>>,
}

impl<'a> Asks<'a> {
    /// `prefix` is that of the rule that accepted the image by signature, `allowed` what all its rules allow.
    pub(crate) fn new(prefix: Option<&'a str>, allowed: &'a [Allow]) -> Self {
        Self { allowed, prefix, granted: RefCell::default() }
    }

    /// The rule must allow these; else an error that names `what` the image asks for and the `flag` that gives it.
    pub(crate) fn require(&self, wishes: &[Allow], what: &str, flag: &str) -> Result<(), Failure> {
        if wishes.iter().all(|wish| self.allowed.contains(wish)) {
            self.granted.borrow_mut().extend(wishes.iter().cloned());
            return Ok(());
        }
        let words = wishes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let by_rule = match self.prefix {
            Some("*") => format!(", `pod trust allow --root {words}` to all that its publishers sign"),
            Some(prefix) => format!(", `pod trust allow --prefix {prefix} {words}` to all that its publishers sign"),
            None => String::new(),
        };
        Err(Failure::new(format!("the image asks for {what}, which is more than the default"))
            .hint(format!("`{flag}` gives it to this pod{by_rule}")))
    }

    /// What the rule had to allow, for `pod.json`.
    pub(crate) fn granted(&self) -> Vec<String> {
        self.granted.borrow().iter().map(ToString::to_string).collect()
    }
}

/// As a word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@+".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_answers_or_the_flag_is_named() {
        let allowed = ["cap:NET_ADMIN".parse().unwrap(), Allow::Seccomp];
        let asks = Asks::new(Some("example.com/app"), &allowed);
        asks.require(&[Allow::Seccomp], "no filter", "--seccomp=unconfined").unwrap();
        let both = [allowed[0].clone(), Allow::OomScore];
        let error = asks.require(&both, "a lot", "--some-flag").unwrap_err();
        assert_eq!(error.to_string(), "the image asks for a lot, which is more than the default");
        let expected = "`--some-flag` gives it to this pod, `pod trust allow --prefix example.com/app cap:NET_ADMIN oom-score` \
                        to all that its publishers sign";
        assert_eq!(error.advice(), Some(expected));
        assert_eq!(asks.granted(), ["seccomp"], "only what was used");
        let unsigned = Asks::new(None, &[]);
        let error = unsigned.require(&[Allow::Seccomp], "no filter", "--seccomp=unconfined").unwrap_err();
        assert_eq!(error.advice(), Some("`--seccomp=unconfined` gives it to this pod"));
    }
}
