//! Pods in units of systemd: whose cgroups they are in, and what keeps their apps from devices.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use tests::testbed::inside;
use tests::{Outcome, Test};

const UNIT: &str = "/run/systemd/system/pod-test.service";

fn systemctl(words: &[&str]) -> Outcome {
    Outcome::of(Command::new("systemctl").args(words))
}

/// `pod run` as a unit with these properties.
fn unit(t: &Test, properties: &[&str], words: &[&str]) -> Outcome {
    let image = t.probe();
    let pod = t.pod_command([&["run", "--net=none"], words, &[image, "--", "report"]].concat());
    let line = std::iter::once(pod.get_program()).chain(pod.get_args());
    let line = line.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
    let (out, err) = (t.path("out"), t.path("err"));
    for file in [&out, &err] {
        fs::write(file, "").unwrap();
    }
    let streams = format!("StandardOutput=file:{}\nStandardError=file:{}", out.display(), err.display());
    let properties = properties.join("\n");
    fs::write(UNIT, format!("[Service]\nType=oneshot\nExecStart={line}\n{streams}\n{properties}\n")).unwrap();
    systemctl(&["daemon-reload"]).assert_exit(0);
    // Returns when the service has ended; how that was, its own exit code says.
    systemctl(&["start", "pod-test.service"]);
    let code = systemctl(&["show", "--value", "--property=ExecMainStatus", "pod-test.service"]);
    let code = code.assert_exit(0).stdout.trim().parse().unwrap();
    fs::remove_file(UNIT).unwrap();
    let text = |file| fs::read_to_string(file).unwrap();
    Outcome { line, code, stdout: text(&out), stderr: text(&err) }
}

fn has_mknod(report: &Value) -> bool {
    report["capabilities"]["bounding"].as_array().unwrap().contains(&json!("CAP_MKNOD"))
}

#[test]
fn a_pod_leaves_no_unit_that_does_not_delegate() {
    inside::under_systemd("units::a_pod_leaves_no_unit_that_does_not_delegate", |t| {
        let plain = unit(t, &[], &[]);
        let report = plain.assert_exit(0).json();
        let reason = "to be kept from devices: unit `pod-test.service` does not delegate its cgroup (`Delegate=yes`)";
        assert_eq!(plain.stderr, format!("pod: app `probe` runs without CAP_MKNOD, {reason}\n"));
        assert!(!has_mknod(&report));
        assert_eq!(report["mknod"]["c 1:11 kmsg"]["/dev"], json!({ "made": "EPERM", "open": "absent" }));
        let limited = unit(t, &[], &["--memory=64M"]);
        limited.assert_refused(125, "no limit can be set in unit `pod-test.service`");
        limited.assert_stderr_has("add `Delegate=yes`");

        for words in [[].as_slice(), &["--memory=64M"]] {
            let delegated = unit(t, &["Delegate=yes"], words);
            let report = delegated.assert_exit(0).json();
            assert_eq!(delegated.stderr, "", "{delegated}");
            assert!(has_mknod(&report));
            assert_eq!(report["mknod"]["c 1:11 kmsg"]["/dev"], json!({ "made": "ok", "open": "EPERM" }));
        }
        assert!(!Path::new("/sys/fs/cgroup/pod").exists(), "a cgroup was made outside of the unit");
        let read_only = unit(t, &["Delegate=yes", "ProtectControlGroups=yes"], &[]);
        read_only.assert_exit(0).assert_stderr_has("no cgroup can be made in `/sys/fs/cgroup/");
    });
}
