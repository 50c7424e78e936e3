//! The one rule that decides about a name.

use std::collections::BTreeMap;

use crate::name::ImageName;

use super::super::refusal::RuleName;
use super::super::{Accept, Level, Prefix, Rule, RuleKey};
use super::names::{is_exactly, prefixes};

/// The rules in force: at most one for a prefix, because a file of the administrator masks that of the vendor.
pub type Rules = BTreeMap<Prefix, (Level, Rule)>;

/// A rule with the keys that it inherits.
#[derive(Debug)]
pub struct Effective<'a> {
    /// Which one it is.
    pub name: RuleName,
    /// The rule.
    pub rule: &'a Rule,
    /// Its keys, and those that it inherits, each with the prefix and the `signed_as` of the rule that names it.
    pub keys: Vec<(&'a Prefix, &'a Rule, &'a RuleKey)>,
}

/// Whether a rule whose prefix covers the name is about it.
pub(crate) fn holds(prefix: &Prefix, rule: &Rule, name: &ImageName) -> bool {
    !rule.exact || is_exactly(prefix, name)
}

impl<'a> Effective<'a> {
    /// The most specific rule about the name. It decides alone; it takes keys of the next one only if it says so.
    #[must_use]
    pub fn of(rules: &'a Rules, name: &ImageName) -> Option<Self> {
        let mut effective: Option<Self> = None;
        for prefix in prefixes(name) {
            let Some((prefix, (level, rule))) = rules.get_key_value(&prefix) else { continue };
            if !holds(prefix, rule, name) {
                continue;
            }
            // A key of a rule that trusts without signatures, or trusts nobody, says nothing about whom to believe.
            let lends = effective.is_none() || rule.accept == Accept::Signed;
            let keys = rule.keys.iter().filter(|_| lends).map(|key| (prefix, rule, key));
            match &mut effective {
                Some(effective) => effective.keys.extend(keys),
                None => {
                    let name = RuleName { prefix: prefix.clone(), level: *level };
                    effective = Some(Self { name, rule, keys: keys.collect() });
                }
            }
            if !rule.inherit {
                break;
            }
        }
        effective
    }
}
