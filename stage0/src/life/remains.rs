//! What is left of a pod on the host, by what its `host.json` names.

use super::pods::Pods;
use anyhow::{Context, Result};
use contract::dir::{HOST, Phase};
use contract::host::Host;
use contract::json::ReadError;
use contract::name::PodUuid;
use rustix::process::Pid;
use std::path::Path;

/// Whether no process is left in any cgroup of this pod, as far as the pod wrote them down. A pod that was collected has none.
pub(crate) fn has_no_process(pods: &Pods, uuid: &PodUuid) -> Result<bool> {
    for phase in Phase::ALL {
        let Some(pod) = pods.open_pod(phase, uuid)? else { continue };
        let host = match pod.read::<Host>(HOST) {
            Err(error) if !is_cut_short(&error) => return Err(error),
            read => read.ok().flatten().unwrap_or_default(),
        };
        for cgroup in &host.cgroups {
            if !members(cgroup)?.is_empty() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether the file ends too early, as one does whose writer was killed.
pub(super) fn is_cut_short(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ReadError::Json(json)) if json.is_eof())
}

/// The processes of a cgroup.
pub(super) fn members(cgroup: &Path) -> Result<Vec<Pid>> {
    let text = match std::fs::read_to_string(cgroup.join("cgroup.procs")) {
        // ENODEV: removed between open and read. EOPNOTSUPP: a threaded v2 cgroup, which pods have none of.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => return Ok(Vec::new()),
        other => other.context("read cgroup.procs")?,
    };
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect())
}
