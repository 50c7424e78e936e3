//! `stage1.json`: what a stage1 is and can do. It lies beside the stage1's executables.

use crate::features::Feature;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;

/// File name, for a stage1 that is a directory or an image. The built-in stages are `stage1-NAME.json` beside `pod`.
pub const FILE: &str = "stage1.json";

/// How long the `gc` entrypoint may take. Then it is killed with all that it started, and the pod stays until the next time.
pub const GC_SECS_MAX: u64 = 30;

/// One stage1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Stage1 {
    /// Versions of `pod.json` that it accepts.
    pub versions: Vec<u32>,
    /// For messages.
    pub name: String,
    /// What it can do. A pod that needs more is refused by stage0. A name that is not known here is of a newer contract, and no
    /// pod can need it, so it is left out.
    #[serde(deserialize_with = "known")]
    pub features: BTreeSet<Feature>,
    /// How it wants the app roots.
    pub root: RootForm,
    /// Executables, relative to the directory of this file.
    pub entrypoints: Entrypoints,
}

/// How a stage1 wants the root of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RootForm {
    /// Directories, to be stacked by overlayfs.
    Tree,
    /// One EROFS image.
    Block,
}

/// The commands of a stage1. Each is argv; the first is a path relative to `stage1.json`, without `..`, of a file below the directory
/// of that file, on the way to which there is no link. stage0 appends the pod's UUID to those that are about a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Entrypoints {
    /// Becomes the supervisor of the pod: cwd and fds as the README says.
    pub run: Vec<String>,
    /// Releases what this stage1 left outside the pod directory and `host.json`; idempotent, within [`GC_SECS_MAX`]. Absent:
    /// nothing is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc: Option<Vec<String>>,
    /// Says on its standard output what of this stage1 this host can do: an array of [`crate::check::Line`]. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Vec<String>>,
}

/// The features of the list that this version of the contract has.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Feature>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let known = |name: &String| {
        let name: StrDeserializer<'_, serde::de::value::Error> = name.as_str().into_deserializer();
        Feature::deserialize(name).ok()
    };
    Ok(names.iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage1_may_be_newer_than_pod() {
        let text = |features: &str| {
            format!(
                r#"{{"versions":[1,9],"name":"x","features":{features},"root":"tree","entrypoints":{{"run":["x"]}}}}"#
            )
        };
        let parse = |features: &str| crate::json::parse::<Stage1>(text(features).as_bytes());
        let newer = parse(r#"["seccomp","levitation"]"#).unwrap();
        assert_eq!(newer.features, BTreeSet::from([Feature::Seccomp]));
        assert!(parse(r#"["seccomp",7]"#).is_err());
        assert!(parse(r#""seccomp""#).is_err());
    }
}
