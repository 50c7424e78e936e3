//! What the testbed VM promises: a `/dev/kvm`, cgroup v2, systemd if asked, exit codes, and an end.

#![cfg(feature = "kvm")]

mod failures;
mod hypervisor;
mod lsm;
mod network;
mod units;

use std::time::Duration;
use tests::testbed::{self, Job, Report};

fn run(job: &Job) -> Option<Report> {
    if let Some(reason) = testbed::missing() {
        tests::skip(&reason);
        return None;
    }
    Some(testbed::run(job).expect("the testbed runs"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_has_kvm_and_the_unified_hierarchy() {
    let files = ["/dev/kvm", "/sys/fs/cgroup/cgroup.controllers", "/no/such/file"];
    let job = Job::new(&[&["/bin/ls"], files.as_slice()].concat());
    let Some(report) = run(&job) else { return };
    assert_eq!(report.code, Some(2), "{report:?}");
    assert_eq!(text(&report.stdout), "/dev/kvm\n/sys/fs/cgroup/cgroup.controllers\n");
    assert!(text(&report.stderr).contains("/no/such/file"), "{report:?}");
}

#[test]
fn systemd_is_pid_1_if_asked() {
    let job = Job { systemd: true, ..Job::new(&["/bin/cat", "/proc/1/comm", "/proc/self/cgroup"]) };
    let Some(report) = run(&job) else { return };
    assert_eq!(text(&report.stdout), "systemd\n0::/system.slice/testbed.service\n", "{report:?}");
    assert_eq!(report.code, Some(0));
}

#[test]
fn a_command_without_an_end_is_ended() {
    let job = Job { time_max: Duration::from_secs(20), ..Job::new(&["/bin/sleep", "1000"]) };
    let Some(report) = run(&job) else { return };
    assert!(report.late && report.code.is_none(), "{report:?}");
}
