//! `pod.json` → [`Plan`]: what to make, in which order, as data. Pure: no system call, so that every rule about mounts is
//! a table test.
//!
//! Two directories are meant by relative paths: the *pod directory* on the host (`apps/NAME/upper` …) and the *pod root*,
//! the small tmpfs that becomes stage2's root directory.

use contract::pod::{App, Device, DeviceKind, IdRange, Ipc, Label, Network, Pod, Volume, VolumeSource};
use contract::{dir, stage2};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Everything that is made for a pod before stage2 runs.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// Which network namespace the pod is in.
    pub(crate) network: Network,
    /// Whether the pod has IPC objects of its own.
    pub(crate) ipc: Ipc,
    /// The pod's user namespace is on fd 5, and files are shown through its mapping.
    pub(crate) private_users: Option<IdRange>,
    /// In order.
    pub(crate) operations: Vec<Operation>,
}

/// One step of making the pod root. Paths of `Directory` lie in the pod directory, targets in the pod root.
#[derive(Debug, PartialEq)]
pub(crate) enum Operation {
    /// A directory in the pod directory, with exactly these permissions; kept if it is there.
    Directory { path: PathBuf, mode: u32, uid: u32, gid: u32 },
    /// `upper` and `work` in `at`; the upper one looks like the root of `like`, because it becomes the app's `/`.
    Writable { at: Area, path: PathBuf, like: PathBuf },
    /// A mount point (or its parent) in the pod root.
    MountPoint { path: PathBuf },
    /// What stage2 looks for in every app's root, empty, as a layer below all others; see [`SKELETON`].
    Skeleton,
    /// Layers, lowest first, under the writable layer made before and above the skeleton.
    Overlay { layers: Vec<PathBuf>, at: Area, writable: PathBuf, target: PathBuf, context: Option<String> },
    /// The SELinux context of a directory in the pod directory.
    Context { path: PathBuf, context: String },
    /// A file or directory of the host (or of the pod directory, if relative). The mount point is made here, because only
    /// the executor sees whether it is a file.
    Bind { source: PathBuf, target: PathBuf, read_only: bool, recursive: bool },
    /// A device node, for stage2 to bind: a pod whose user namespace is not the host's may not make any.
    Device { path: PathBuf, kind: DeviceKind, major: u32, minor: u32, mode: u32 },
    /// The host's /sys, read-only: a user namespace that does not own its network namespace cannot mount one.
    HostSys,
    /// The host's POSIX shared memory, which goes with its IPC objects.
    HostShm,
}

/// Mount points that stage2 needs in an app's root. They lie in memory, in a layer below those of the image: whatever the
/// image has there counts, and for what it has not, overlayfs need not copy directories up to the writable layer on disk,
/// which costs more than all of stage2's mounts together.
pub(crate) const SKELETON: (&str, [&str; 5], [&str; 3]) = (
    "skeleton",
    ["skeleton", "skeleton/proc", "skeleton/sys", "skeleton/dev", "skeleton/etc"],
    ["skeleton/etc/hostname", "skeleton/etc/hosts", "skeleton/etc/resolv.conf"],
);

/// Where a writable layer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// On disk; it lives until gc.
    PodDirectory,
    /// In memory: for a read-only root, where only stage2 writes, and only mount points.
    PodRoot,
}

impl Plan {
    /// Decides all that is to be made for `pod`.
    pub(crate) fn of(pod: &Pod) -> Self {
        let mut operations = Vec::with_capacity(8 + 6 * pod.apps.len() + 3 * pod.volumes.len());
        operations.push(mount_point(relative(stage2::APPS)));
        operations.push(pod_directory(dir::APPS.into(), 0o700));
        operations.push(Operation::Skeleton);
        pod.apps.iter().for_each(|app| operations.extend(of_app(app)));
        if !pod.volumes.is_empty() {
            operations.push(mount_point(relative(stage2::VOLUMES)));
        }
        if pod.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Empty { .. })) {
            operations.push(pod_directory(dir::VOLUMES.into(), 0o700));
        }
        // The apps of a pod share its volumes, and unless told otherwise their context.
        let context = pod.apps.iter().find_map(context);
        pod.volumes.iter().for_each(|volume| operations.extend(of_volume(volume, context.as_ref())));
        if pod.private_users.is_some() {
            operations.extend(kernel_file_systems());
            operations.extend(devices(pod));
            if pod.network == Network::Host {
                operations.push(Operation::HostSys);
            }
        }
        if pod.ipc == Ipc::Host {
            operations.push(mount_point(relative(stage2::SHM)));
            operations.push(Operation::HostShm);
        }
        Self { network: pod.network.clone(), ipc: pod.ipc, private_users: pod.private_users, operations }
    }
}

fn of_app(app: &App) -> Vec<Operation> {
    let path = Path::new(dir::APPS).join(&app.name);
    let target = relative(stage2::APPS).join(&app.name);
    let rootfs = target.join(stage2::ROOTFS);
    // contract::pod promises at least one layer, `run` checked it.
    let like = app.root.layers.last().cloned().unwrap_or_default();
    let mut operations = vec![mount_point(target.clone()), mount_point(rootfs.clone())];
    let (at, writable) = if app.root.read_only {
        (Area::PodRoot, target)
    } else {
        operations.push(pod_directory(path.clone(), 0o700));
        (Area::PodDirectory, path)
    };
    operations.push(Operation::Writable { at, path: writable.clone(), like });
    operations.push(Operation::Overlay {
        layers: app.root.layers.clone(),
        at,
        writable,
        target: rootfs,
        context: context(app),
    });
    operations
}

/// Of the files of an app, where SELinux confines it.
fn context(app: &App) -> Option<String> {
    match &app.label {
        Some(Label::Selinux { files, .. }) => Some(files.clone()),
        _ => None,
    }
}

fn of_volume(volume: &Volume, context: Option<&String>) -> Vec<Operation> {
    let target = relative(stage2::VOLUMES).join(&volume.name);
    match &volume.source {
        VolumeSource::Host { source, read_only, recursive } => {
            vec![Operation::Bind { source: source.clone(), target, read_only: *read_only, recursive: *recursive }]
        }
        VolumeSource::Empty { mode, uid, gid } => {
            let path = Path::new(dir::VOLUMES).join(&volume.name);
            let mut operations = vec![Operation::Directory { path: path.clone(), mode: *mode, uid: *uid, gid: *gid }];
            operations
                .extend(context.map(|context| Operation::Context { path: path.clone(), context: context.clone() }));
            operations.push(Operation::Bind { source: path, target, read_only: false, recursive: false });
            operations
        }
    }
}

fn kernel_file_systems() -> [Operation; 2] {
    [mount_point(relative(stage2::PROC)), mount_point(relative(stage2::SYS))]
}

/// The devices that every app has.
const STANDARD_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Each under the path that it has in the app, below the pod root's /dev.
fn devices(pod: &Pod) -> Vec<Operation> {
    let dev = relative(stage2::DEV);
    let standard = STANDARD_DEVICES.map(|(name, major, minor)| {
        let kind = DeviceKind::Character;
        (dev.join(name), Operation::Device { path: dev.join(name), kind, major, minor, mode: 0o666 })
    });
    let mut nodes = BTreeMap::from(standard);
    for device in pod.apps.iter().flat_map(|app| &app.devices) {
        let path = device.path.strip_prefix(stage2::DEV).or_else(|_| device.path.strip_prefix("/"));
        let path = dev.join(path.unwrap_or(&device.path));
        let Device { kind, major, minor, mode, .. } = *device;
        nodes.entry(path.clone()).or_insert(Operation::Device { path, kind, major, minor, mode });
    }
    let parents: BTreeSet<PathBuf> = nodes
        .keys()
        .flat_map(|path| path.ancestors().skip(1))
        .filter(|path| !path.as_os_str().is_empty())
        .map(Path::to_owned)
        .collect();
    parents.into_iter().map(mount_point).chain(nodes.into_values()).collect()
}

fn pod_directory(path: PathBuf, mode: u32) -> Operation {
    Operation::Directory { path, mode, uid: 0, gid: 0 }
}

fn mount_point(path: PathBuf) -> Operation {
    Operation::MountPoint { path }
}

/// The contract names the places of the pod root as absolute paths; they are used relative to its fd.
fn relative(path: &str) -> PathBuf {
    PathBuf::from(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(changes: &[(&str, &str)]) -> Pod {
        let mut text = String::from(
            r#"{"version":1,"uuid":"0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa","created_unix_secs":0,"hostname":"h","ipc":"private",
            "network":{"mode":"none"},"apps":[{"name":"a","image":{"id":"sha256:0","name":"x","trust":{"by":"digest"}},
            "root":{"layers":["/s/1","/s/2"],"read_only":false},"exec":["/x"],"user":"0","working_directory":"/","environment":[],
            "capabilities":[],"no_new_privileges":true,"seccomp":{"mode":"unconfined"},"restart":{"policy":"no"},
            "stop":{"signal":15,"grace_millis":1},"stdio":{"mode":"null"}}]}"#,
        );
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        serde_json::from_str(&text).expect("the sample is a pod")
    }

    fn plan(changes: &[(&str, &str)]) -> Vec<String> {
        Plan::of(&pod(changes)).operations.iter().map(|operation| format!("{operation:?}")).collect()
    }

    #[test]
    fn writable_root_lies_in_the_pod_directory() {
        assert_eq!(
            plan(&[]),
            [
                r#"MountPoint { path: "apps" }"#,
                r#"Directory { path: "apps", mode: 448, uid: 0, gid: 0 }"#,
                "Skeleton",
                r#"MountPoint { path: "apps/a" }"#,
                r#"MountPoint { path: "apps/a/rootfs" }"#,
                r#"Directory { path: "apps/a", mode: 448, uid: 0, gid: 0 }"#,
                r#"Writable { at: PodDirectory, path: "apps/a", like: "/s/2" }"#,
                r#"Overlay { layers: ["/s/1", "/s/2"], at: PodDirectory, writable: "apps/a", target: "apps/a/rootfs", context: None }"#,
            ]
        );
    }

    #[test]
    fn read_only_root_writes_nothing_to_disk() {
        let plan = plan(&[(r#""read_only":false"#, r#""read_only":true"#)]);
        assert!(plan.contains(&r#"Writable { at: PodRoot, path: "apps/a", like: "/s/2" }"#.to_owned()), "{plan:#?}");
        assert!(!plan.iter().any(|operation| operation.contains("PodDirectory")), "{plan:#?}");
    }

    #[test]
    fn volumes() {
        let volumes = r#""ipc":"private","volumes":[
            {"name":"h","source":{"kind":"host","source":"/srv","read_only":true,"recursive":true}},
            {"name":"e","source":{"kind":"empty","mode":1023,"uid":5,"gid":6}}]"#;
        let plan = plan(&[(r#""ipc":"private""#, volumes)]).split_off(8);
        assert_eq!(
            plan,
            [
                r#"MountPoint { path: "volumes" }"#,
                r#"Directory { path: "volumes", mode: 448, uid: 0, gid: 0 }"#,
                r#"Bind { source: "/srv", target: "volumes/h", read_only: true, recursive: true }"#,
                r#"Directory { path: "volumes/e", mode: 1023, uid: 5, gid: 6 }"#,
                r#"Bind { source: "volumes/e", target: "volumes/e", read_only: false, recursive: false }"#,
            ]
        );
    }

    #[test]
    fn what_selinux_confines_has_its_context() {
        let label = r#""label":{"module":"selinux","process":"u:r:p:s0","files":"u:r:f:s0"},"exec""#;
        let volume = r#""ipc":"private","volumes":[{"name":"e","source":{"kind":"empty","mode":493,"uid":0,"gid":0}}]"#;
        let plan = plan(&[(r#""exec""#, label), (r#""ipc":"private""#, volume)]);
        assert!(plan.iter().any(|operation| operation.ends_with(r#"context: Some("u:r:f:s0") }"#)), "{plan:#?}");
        let labelled = r#"Context { path: "volumes/e", context: "u:r:f:s0" }"#;
        assert!(plan.contains(&labelled.to_owned()), "{plan:#?}");
    }

    #[test]
    fn private_users_get_what_they_may_not_make() {
        let users = (r#""ipc":"private""#, r#""ipc":"private","private_users":{"first":100000,"count":65536}"#);
        let plan_of_users = plan(&[users]);
        for wanted in [
            r#"MountPoint { path: "proc" }"#,
            r#"MountPoint { path: "sys" }"#,
            r#"MountPoint { path: "dev" }"#,
            r#"Device { path: "dev/null", kind: Character, major: 1, minor: 3, mode: 438 }"#,
        ] {
            assert!(plan_of_users.contains(&wanted.to_owned()), "{wanted} in {plan_of_users:#?}");
        }
        assert!(!plan_of_users.contains(&"HostSys".to_owned()));
        let host = (r#"{"mode":"none"}"#, r#"{"mode":"host"}"#);
        assert!(plan(&[users, host]).contains(&"HostSys".to_owned()));
        assert!(!plan(&[host]).contains(&"HostSys".to_owned()));
    }

    #[test]
    fn devices_of_apps_get_their_directories() {
        let device = r#""devices":[{"path":"/dev/net/tun","kind":"character","major":10,"minor":200,"read":true,"write":true,"mknod":false,"mode":438}],"exec""#;
        let users = (r#""ipc":"private""#, r#""ipc":"private","private_users":{"first":100000,"count":65536}"#);
        let plan = plan(&[users, (r#""exec""#, device)]);
        let position = |wanted: &str| plan.iter().position(|operation| operation.starts_with(wanted));
        let directory = position(r#"MountPoint { path: "dev/net" }"#).unwrap();
        assert!(directory < position(r#"Device { path: "dev/net/tun""#).unwrap(), "{plan:#?}");
    }

    #[test]
    fn host_ipc_brings_its_shared_memory() {
        let plan = plan(&[(r#""ipc":"private""#, r#""ipc":"host""#)]);
        assert_eq!(plan[plan.len() - 2..], [r#"MountPoint { path: "shm" }"#, "HostShm"]);
    }
}
