//! Tables: flags and host → directories and writes.

use super::*;
use crate::arguments::{self, Action};
use crate::pod_json::{self, AppImage, Facts};

fn hybrid() -> Hierarchies {
    let own = |name: &str, path: &str| (name.to_owned(), Path::new("/c").join(name).join(path));
    let v1 = [own("memory", "a"), own("cpu", ""), own("pids", ""), own("devices", "")].into_iter().collect();
    let v2 = Some(Unified { mount: "/c/unified".into(), own: "/c/unified".into(), ..Unified::default() });
    Hierarchies { v1, v2, no_devices: None }
}

fn unified(delegated: bool) -> Hierarchies {
    let controllers = ["cpu", "memory", "pids", "io"].map(str::to_owned).to_vec();
    let own = if delegated { "/c/system.slice/x.service" } else { "/c/user.slice" };
    let delegated = delegated.then(|| own.into());
    let v2 = Unified { mount: "/c".into(), own: own.into(), controllers, delegated, unit: None };
    Hierarchies { v1: BTreeMap::new(), v2: Some(v2), no_devices: None }
}

fn pod(line: &str) -> Pod {
    let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Action::Run(asked) = arguments::parse(&argv).unwrap().action else { panic!("{line}") };
    let config: image_tools::config::ImageConfig = serde_json::from_value(serde_json::json!({
        "schema": 1, "name": "x", "os": "linux", "architecture": "amd64", "layers": [],
        "app": {"exec": ["/x"], "user": "0", "working_directory": "/"},
    }))
    .unwrap();
    let images = asked
        .apps
        .iter()
        .map(|app| AppImage {
            id: String::new(),
            name: "x".to_owned(),
            base: app.image.clone(),
            version: None,
            config: config.clone(),
            layers: Vec::new(),
            allowed: Vec::new(),
            trust: contract::pod::Trust::Insecure,
        })
        .collect();
    let uuid = PodUuid::parse("0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa").unwrap();
    pod_json::build(uuid, &asked, images, Default::default(), &Facts::default(), false).unwrap()
}

/// Directories with their writes, and after `|` what the first app joins; the UUID is `U`.
fn shown(line: &str, hierarchies: &Hierarchies) -> String {
    let plan = plan(&pod(line), hierarchies, RootForm::Tree).unwrap();
    let groups: Vec<String> = plan
        .groups
        .iter()
        .map(|group| {
            let settings: Vec<String> =
                group.settings.iter().map(|set| format!("{}={}", set.file, set.value)).collect();
            let devices = match &group.devices {
                Devices::Unlimited => String::new(),
                Devices::Inherited => "inherited".to_owned(),
                Devices::Written(rules) => format!("written{}", rules.len()),
                Devices::Program(rules) => format!("program{}", rules.len()),
            };
            format!("{}[{}{devices}]", group.path.display(), settings.join(","))
        })
        .collect();
    let joins: Vec<String> = plan.apps.values().next().unwrap().iter().map(|path| path.display().to_string()).collect();
    let supervisor: Vec<String> = plan.supervisor.iter().map(|path| format!(" P:{}", path.display())).collect();
    format!("{} | {}{}", groups.join(" "), joins.join(" "), supervisor.concat())
        .replace("0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa", "U")
}

#[test]
fn hybrid_hosts() {
    for (line, expected) in [
        ("run a", "/c/devices/pod.devices-1/U.a[inherited] | /c/devices/pod.devices-1/U.a"),
        (
            "run a --pids 5",
            "/c/pids/pod/U.a[pids.max=5] /c/devices/pod.devices-1/U.a[inherited] | /c/pids/pod/U.a /c/devices/pod.devices-1/U.a",
        ),
        (
            "run --pids 9 a --pids 5 --- b",
            "/c/pids/pod/U[pids.max=9] /c/pids/pod/U/a[pids.max=5] /c/devices/pod.devices-1/U.a[inherited] \
             /c/devices/pod.devices-1/U.b[inherited] | /c/pids/pod/U/a /c/devices/pod.devices-1/U.a",
        ),
        (
            "run a --memory 1M",
            "/c/memory/a/pod/U.a[memory.limit_in_bytes=1048576,memory.memsw.limit_in_bytes=1048576] \
             /c/devices/pod.devices-1/U.a[inherited] | /c/memory/a/pod/U.a /c/devices/pod.devices-1/U.a",
        ),
    ] {
        assert_eq!(shown(line, &hybrid()), expected, "{line}");
    }
}

#[test]
fn unified_hosts() {
    for (line, delegated, expected) in [
        ("run a", false, "/c/pod/pod-U[program10] | /c/pod/pod-U"),
        ("run a --pids 5", false, "/c/pod/pod-U[pids.max=5program10] | /c/pod/pod-U"),
        (
            "run a --- b",
            false,
            "/c/pod/pod-U[] /c/pod/pod-U/app-a[program10] /c/pod/pod-U/app-b[program10] | /c/pod/pod-U/app-a",
        ),
        ("run a", true, "/c/system.slice/x.service/pod-U[program10] | /c/system.slice/x.service/pod-U"),
        (
            "run a --pids 5",
            true,
            "/c/system.slice/x.service/pod-U[] /c/system.slice/x.service/pod-U/supervisor[] \
             /c/system.slice/x.service/pod-U/app-a[pids.max=5program10] | /c/system.slice/x.service/pod-U/app-a \
             P:/c/system.slice/x.service/pod-U/supervisor",
        ),
    ] {
        assert_eq!(shown(line, &unified(delegated)), expected, "{line}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let mut small = hybrid();
    small.v1.remove("pids");
    for line in ["run a --pids 5", "run --pids 5 a"] {
        assert!(plan(&pod(line), &small, RootForm::Tree).is_err(), "{line}");
    }
    assert!(plan(&pod("run a"), &small, RootForm::Tree).is_ok());
}

/// A unit that systemd did not give away.
fn undelegated() -> Hierarchies {
    let mut hierarchies = unified(false);
    hierarchies.no_devices = Some("unit".to_owned());
    hierarchies.v2.as_mut().unwrap().unit = Some("x.service".to_owned());
    hierarchies
}

#[test]
fn nothing_is_made_in_an_undelegated_unit() {
    for form in [RootForm::Tree, RootForm::Block] {
        assert_eq!(plan(&pod("run a --- b"), &undelegated(), form).unwrap(), Plan::default());
        for line in ["run a --memory 1M", "run --cpu 1 a"] {
            if form == RootForm::Tree || !line.contains("memory") {
                let error = plan(&pod(line), &undelegated(), form).unwrap_err();
                assert!(error.to_string().contains("x.service") && error.advice().unwrap().contains("Delegate=yes"));
            }
        }
    }
}

#[test]
fn a_process_in_a_subgroup_of_its_unit_stays_there() {
    let mut hierarchies = unified(true);
    hierarchies.v2.as_mut().unwrap().own = "/c/system.slice/x.service/init".into();
    let expected = "/c/system.slice/x.service/pod-U[pids.max=5program10] | /c/system.slice/x.service/pod-U";
    assert_eq!(shown("run a --pids 5", &hierarchies), expected);
}

#[test]
fn without_a_device_cgroup_limits_hold() {
    let mut hierarchies = hybrid();
    hierarchies.no_devices = Some("a reason".to_owned());
    assert_eq!(shown("run a --pids 5", &hierarchies), "/c/pids/pod/U.a[pids.max=5] | /c/pids/pod/U.a");
    assert_eq!(plan(&pod("run a"), &hierarchies, RootForm::Tree).unwrap(), Plan::default());
}

#[test]
fn a_machine_is_limited_as_a_whole() {
    let none = plan(&pod("run --memory 1G a --cpu 1"), &hybrid(), RootForm::Block).unwrap();
    assert_eq!(none, Plan::default());
    let cpu = plan(&pod("run --cpu 2 a"), &hybrid(), RootForm::Block).unwrap();
    assert_eq!((cpu.supervisor.len(), cpu.apps.len()), (1, 0));
}
