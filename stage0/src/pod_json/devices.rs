//! Keeping apps from devices where no cgroup can hold a list of them.
//!
//! An app without CAP_MKNOD finds the device nodes that stage2 made, and no other: all its mounts are nodev but the one that holds
//! these. CAP_SYS_ADMIN would let it mount more. In a user namespace the kernel itself refuses both.

use crate::failure::Failure;
use contract::features::Feature;
use contract::kernel::Capability;
use contract::name::AppName;
use contract::pod::Pod;

/// Takes CAP_MKNOD from the apps of a pod and gives their names; refuses what cannot be confined so. `obstacle` says why there is
/// no cgroup.
pub(crate) fn without_cgroup(pod: &mut Pod, obstacle: &str) -> Result<Vec<AppName>, Failure> {
    if pod.waived.contains(&Feature::DeviceConfinement) {
        return Ok(Vec::new());
    }
    let own_users = pod.private_users.is_some();
    let mut taken = Vec::new();
    for app in &mut pod.apps {
        if let Some(device) = app.devices.iter().find(|device| !(device.read && device.write)) {
            let path = device.path.display();
            return Err(Failure::new(format!(
                "app `{}` cannot be given only a part of the access to device `{path}`: {obstacle}",
                app.name
            ))
            .hint("give it reading and writing: `--device=PATH:PATH:rw`"));
        }
        if own_users {
            continue;
        }
        if app.capabilities.contains(&Capability::SysAdmin) {
            return Err(Failure::new(format!(
                "app `{}` has CAP_SYS_ADMIN and cannot be kept from devices: {obstacle}",
                app.name
            ))
            .hint("run the pod with `--private-users`, or without that capability"));
        }
        if app.capabilities.contains(&Capability::Mknod) {
            app.capabilities.retain(|capability| *capability != Capability::Mknod);
            taken.push(app.name.clone());
        }
    }
    Ok(taken)
}

/// What is said at the run.
pub(crate) fn notice(taken: &[AppName], obstacle: &str) -> String {
    let names: Vec<String> = taken.iter().map(|name| format!("`{name}`")).collect();
    let (apps, run) = if names.len() == 1 { ("app", "runs") } else { ("apps", "run") };
    format!("pod: {apps} {} {run} without CAP_MKNOD, to be kept from devices: {obstacle}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(changes: &[(&str, &str)]) -> Pod {
        let mut text = String::from(
            r#"{"version":1,"uuid":"0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa","created_unix_secs":0,"hostname":"h","ipc":"private",
            "network":{"mode":"none"},"apps":[{"name":"a","image":{"id":"sha256:0","name":"x","trust":{"by":"digest"}},
            "root":{"layers":["/s/1"]},"exec":["/x"],"user":"0","working_directory":"/","environment":[],
            "capabilities":["CAP_KILL","CAP_MKNOD"],"no_new_privileges":false,"seccomp":{"mode":"unconfined"},
            "restart":{"policy":"no"},"stop":{"signal":15,"grace_millis":1},"stdio":{"mode":"null"}}]}"#,
        );
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        serde_json::from_str(&text).expect("the sample is a pod")
    }

    /// The capabilities that are left, or what is said.
    fn left(changes: &[(&str, &str)]) -> Result<(usize, usize), String> {
        let mut pod = pod(changes);
        let taken = without_cgroup(&mut pod, "a reason").map_err(|failure| failure.to_string())?;
        Ok((taken.len(), pod.apps[0].capabilities.len()))
    }

    const USERS: (&str, &str) = (r#""ipc""#, r#""private_users":{"first":1,"count":1},"ipc""#);
    const ADMIN: (&str, &str) = ("CAP_KILL", "CAP_SYS_ADMIN");

    #[test]
    fn an_app_loses_what_makes_nodes() {
        assert_eq!(left(&[]), Ok((1, 1)));
        assert_eq!(left(&[(r#","CAP_MKNOD""#, "")]), Ok((0, 1)));
        assert_eq!(left(&[USERS]), Ok((0, 2)));
        assert_eq!(left(&[USERS, ADMIN]), Ok((0, 2)));
        assert_eq!(left(&[(r#""ipc""#, r#""waived":["device-confinement"],"ipc""#)]), Ok((0, 2)));
    }

    #[test]
    fn what_could_not_be_kept_is_refused() {
        let error = left(&[ADMIN]).unwrap_err();
        assert_eq!(error, "app `a` has CAP_SYS_ADMIN and cannot be kept from devices: a reason");
        let device = |access: &str| {
            let node = r#""kind":"character","major":1,"minor":7,"mode":438,"mknod":false"#;
            format!(r#""devices":[{{"path":"/dev/x",{node},{access}}}],"exec""#)
        };
        let half = device(r#""read":true,"write":false"#);
        for changes in [vec![(r#""exec""#, half.as_str())], vec![(r#""exec""#, half.as_str()), USERS]] {
            assert!(left(&changes).unwrap_err().contains("part of the access to device `/dev/x`: a reason"));
        }
        assert_eq!(left(&[(r#""exec""#, &device(r#""read":true,"write":true"#))]), Ok((1, 1)));
    }

    #[test]
    fn the_notice_is_one_line() {
        let names = ["a", "b"].map(|name| AppName::parse(name).unwrap());
        assert_eq!(
            notice(&names[..1], "a reason"),
            "pod: app `a` runs without CAP_MKNOD, to be kept from devices: a reason"
        );
        assert!(notice(&names, "a reason").starts_with("pod: apps `a`, `b` run without"));
    }
}
