//! Finding a pod by what a person types: its name, its UUID, or the start of its UUID.

use super::names;
use super::pods::{PodDir, Pods};
use crate::failure::Failure;
use anyhow::Result;
use contract::dir::Phase;
use contract::name::{PodName, PodUuid};

/// Phases in which a person may speak of a pod, in the order of its life: a pod that is renamed meanwhile is met again.
const PHASES: [Phase; 4] = [Phase::Prepare, Phase::Prepared, Phase::Run, Phase::ExitedGarbage];

/// The one pod that is meant.
pub(crate) fn find(pods: &Pods, text: &str) -> Result<PodDir> {
    if text.is_empty() {
        return Err(Failure::usage("the pod's name or UUID is empty").into());
    }
    let missing = || {
        Failure::new(format!("no pod is named `{}`, and no UUID starts so", text.escape_debug()))
            .hint("`pod list` shows all pods")
    };
    if let Ok(uuid) = PodUuid::parse(text) {
        return open(pods, &uuid)?.ok_or_else(|| missing().into());
    }
    // A name wins over the start of a UUID: who names a pod `cafe` means that pod.
    if let Some(uuid) = PodName::parse(text).ok().map(|name| names::owner(pods, &name)).transpose()?.flatten()
        && let Some(pod) = open(pods, &uuid)?
    {
        return Ok(pod);
    }
    let prefix = text.to_ascii_lowercase();
    let mut found: Vec<PodUuid> = Vec::new();
    for phase in PHASES {
        found.extend(pods.uuids(phase)?.into_iter().filter(|uuid| uuid.as_str().starts_with(&prefix)));
    }
    found.sort();
    found.dedup();
    match found.as_slice() {
        [] => Err(missing().into()),
        [uuid] => open(pods, uuid)?.ok_or_else(|| missing().into()),
        several => Err(Failure::new(format!("`{}` is the start of {} UUIDs", text.escape_debug(), several.len()))
            .hint("type more of it")
            .into()),
    }
}

fn open(pods: &Pods, uuid: &PodUuid) -> Result<Option<PodDir>> {
    for phase in PHASES {
        if let Some(pod) = pods.open_pod(phase, uuid)? {
            return Ok(Some(pod));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_names_and_ambiguity() {
        let data = tempfile::tempdir().unwrap();
        let pods = Pods::open(data.path()).unwrap();
        let uuid = |text: &str| PodUuid::parse(&format!("{text}-0000-4000-8000-000000000000")).unwrap();
        let (a, b) = (uuid("abc00000"), uuid("abd00000"));
        let _a = pods.create(a.clone()).unwrap();
        let mut kept = pods.create(b.clone()).unwrap();
        pods.advance(&mut kept, Phase::Run).unwrap();
        names::claim(&pods, &PodName::parse("abc").unwrap(), &b).unwrap();
        assert_eq!(find(&pods, "abc0").unwrap().uuid, a);
        assert_eq!(find(&pods, "abc").unwrap().uuid, b);
        assert_eq!(find(&pods, "ABD").unwrap().uuid, b);
        assert_eq!(find(&pods, a.as_str()).unwrap().phase, Phase::Prepare);
        for bad in ["", "ab", "x", "../run", "ffffffff-0000-4000-8000-000000000000"] {
            assert!(find(&pods, bad).is_err(), "{bad}");
        }
    }
}
