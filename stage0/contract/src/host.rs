//! `host.json`: what the pod holds of the host, so that gc can release it after any death. Each entry is written before
//! the thing is made; gc therefore meets entries whose thing never came to be.

use crate::json::Version;
use crate::name::AppName;
use crate::pod::{IdRange, Trust};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The resources of one pod on the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Always [`crate::VERSION`].
    pub version: Version,
    /// The `stage1.json` of the stage1 that has the pod; gc asks its `gc` entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1: Option<PathBuf>,
    /// Whether it had a `gc` entrypoint when it got the pod. Then gc must find it again; otherwise it has left nothing.
    #[serde(default)]
    pub stage1_gc: bool,
    /// The image that this stage1 came in: it is verified again when a prepared pod is run, and kept as long as the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1_image: Option<StageImage>,
    /// By app the name under which its image was asked for, if it was a name: under that name a prepared pod's image is judged
    /// again when the pod is run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub asked: BTreeMap<AppName, String>,
    /// All cgroup directories of the pod, parents before children; gc removes them in the reverse order.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// For each app the cgroup directories its first process must join before it runs: one on cgroup v2, one for each
    /// controller in use on v1. stage1-namespaces reads this; a VM's process joins `supervisor` alone.
    #[serde(default)]
    pub app_cgroups: BTreeMap<AppName, Vec<PathBuf>>,
    /// The cgroup directories that stage0 itself joined before it became stage1.
    #[serde(default)]
    pub supervisor_cgroups: Vec<PathBuf>,
    /// A leased range of user ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_range: Option<IdRange>,
}

/// An image that holds a stage1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StageImage {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// Who vouched for it.
    pub trust: Trust,
    /// The name under which it was asked for, if it was a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}
