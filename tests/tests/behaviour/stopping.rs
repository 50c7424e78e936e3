//! `pod stop` has a bound of its own: a supervisor that does nothing is killed, and what keeps a pod alive is named.

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::{Outcome, Running, Test, on_stage, stage_test};

/// A process of the host that has the open file with the pod's lock, as one has that inherited it by mistake.
struct Holder(Child);

impl Holder {
    fn of(pod: &Running<'_>) -> Self {
        let supervisor = Pid::from_raw(pod.pid().cast_signed()).expect("a pid");
        let pidfd = pidfd_open(supervisor, PidfdFlags::empty()).expect("the pod runs");
        let lock: OwnedFd =
            pidfd_getfd(pidfd, contract::dir::LOCK_FD, PidfdGetfdFlags::empty()).expect("the supervisor has the lock");
        let child = Command::new("/bin/sleep").arg("600").stdin(Stdio::from(lock)).spawn();
        Self(child.expect("sleep starts"))
    }

    fn named(&self) -> String {
        format!("process {} (sleep) still holds the pod's lock", self.0.id())
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }

    fn end(&mut self) {
        let _ = self.0.kill(); // It may be dead already.
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.end();
    }
}

/// `pod stop`, which must not take longer than `seconds`.
#[track_caller]
fn stop_within(t: &Test, seconds: u64, words: &[&str]) -> Outcome {
    let begin = Instant::now();
    let outcome = t.cli(["stop"].iter().chain(words));
    assert!(begin.elapsed() < Duration::from_secs(seconds), "it took {:?}: {outcome}", begin.elapsed());
    outcome
}

// `kill -STOP` of the supervisor: only SIGKILL from outside ends that pod.
stage_test!(a_supervisor_that_does_nothing_is_killed, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    pod.signal(Signal::STOP);
    let stopped = stop_within(t, 40, &["--timeout=1s", &pod.uuid]);
    stopped.assert_exit(0).assert_stdout(&pod.uuid).assert_stderr_has("it is killed");
    pod.wait().assert_exit(137);

    let mut forced = t.pod().app("a", "process-sleep 600").start();
    forced.signal(Signal::STOP);
    stop_within(t, 40, &["--force", &forced.uuid]).assert_exit(0);
    forced.wait().assert_exit(137);
});

// One that does nothing does not keep the command from stopping the others.
stage_test!(several_pods_are_stopped_together, |t| {
    let mut good = t.pod().app("a", "process-sleep 600").start();
    let mut held = t.pod().app("a", "process-sleep 600").start();
    let mut holder = Holder::of(&held);
    held.signal(Signal::KILL);
    held.wait();
    let stopped = stop_within(t, 60, &["--timeout=5s", &held.uuid, &good.uuid]);
    stopped.assert_refused(125, &holder.named());
    assert_eq!(stopped.stdout.trim(), good.uuid);
    good.wait().assert_exit(143);
    holder.end();
});

// The supervisor is dead, and another process has the lock: no message may say that the pod is just starting.
stage_test!(a_process_that_holds_the_lock_is_named, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    let mut holder = Holder::of(&pod);
    pod.signal(Signal::KILL);
    pod.wait();
    for words in [&["--timeout=1s", &pod.uuid][..], &["--force", &pod.uuid]] {
        let refused = stop_within(t, 40, words);
        refused.assert_refused(125, &holder.named());
        assert!(!refused.stderr.contains("starting"), "{refused}");
        assert!(!holder.ended(), "a process that is none of the pod's was killed: {refused}");
    }
    let exec = t.cli(["exec", &pod.uuid, "--", "/probe", "true"]);
    exec.assert_refused(125, "no process listens on its `control.sock`");
    // The advice, as one would paste it.
    let refused = t.cli(["stop", "--force", &pod.uuid]);
    let advice = refused.stderr.lines().find_map(|line| line.strip_prefix("hint: `")).expect("a hint");
    let words: Vec<&str> = advice.split('`').next().expect("a command").split(' ').collect();
    Outcome::of(Command::new(words[0]).args(&words[1..])).assert_ok();
    holder.0.wait().unwrap();
    t.cli(["stop", &pod.uuid]).assert_exit(0);
});

/// What is in the pod's cgroups is the pod's, and is killed. Of a microVM, the host's cgroups hold no app.
#[test]
fn what_is_left_in_the_cgroups_is_killed() {
    on_stage("namespaces", "left-in-cgroups", |t| {
        let mut pod = t.pod().app("a", "process-sleep 600").start();
        let mut holder = Holder::of(&pod);
        let host = fs::read(t.pod_directory(&pod.uuid).join(contract::dir::HOST)).unwrap();
        let host: contract::host::Host = serde_json::from_slice(&host).unwrap();
        let cgroup = host.cgroups.iter().rev().find(|cgroup| cgroup.exists()).expect("the pod has a cgroup");
        fs::write(cgroup.join("cgroup.procs"), holder.0.id().to_string()).unwrap();
        pod.signal(Signal::KILL);
        pod.wait();
        stop_within(t, 40, &["--timeout=1s", &pod.uuid]).assert_exit(0);
        assert!(holder.ended());
    });
}

stage_test!(a_pod_without_its_socket_can_be_stopped, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    fs::remove_file(t.pod_directory(&pod.uuid).join(contract::dir::CONTROL)).unwrap();
    let exec = t.cli(["exec", &pod.uuid, "--", "/probe", "true"]);
    exec.assert_refused(125, "runs, but no process listens on its `control.sock`");
    stop_within(t, 40, &[&pod.uuid]).assert_exit(0);
    pod.wait().assert_exit(143);
});
