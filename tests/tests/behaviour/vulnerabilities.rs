//! Mistakes of other programs of this kind that have no better place: each test carries the name or number under which the
//! mistake is known. Those about images are in `hostile` and `lies`, those about confinement in `confinement`.

use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tests::{Outcome, Test, stage_test};

/// A process that has nothing to do with any pod.
struct Bystander(Child);

impl Bystander {
    fn start() -> Self {
        let child = Command::new("/bin/sleep").arg("600").stdin(Stdio::null()).spawn();
        Self(child.expect("sleep starts"))
    }

    /// Makes it the process of the file `pid`: the number is its own now, the start time that of who wrote the file.
    fn takes_the_number_in(&self, file: &Path) {
        let written = fs::read_to_string(file).expect("the pid file");
        let start = written.split_whitespace().nth(1).expect("`PID START`");
        fs::write(file, format!("{} {start}\n", self.0.id())).expect("write the pid file");
    }

    #[track_caller]
    fn assert_alive(&mut self, after: &Outcome) {
        assert!(self.0.try_wait().expect("wait").is_none(), "the bystander was killed by: {after}");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill(); // Dead already, if the test fails.
        let _ = self.0.wait();
    }
}

// podman 25104 and 28157: a stored pid is somebody else's by the time it is signalled.
stage_test!(podman_25104_a_reused_pid_is_not_signalled, |t| {
    let mut bystander = Bystander::start();
    let mut pod = t.pod().app("a", "process-trap 15 then print ready then process-sleep 60").start();
    pod.await_line("ready");
    let directory = t.pod_directory(&pod.uuid);
    bystander.takes_the_number_in(&directory.join("pid"));
    // The pod runs, and the file names a stranger: the pod is stopped by its socket, and the stranger left alone.
    let stopped = t.cli(["stop", "--force", &pod.uuid]);
    stopped.assert_exit(0);
    bystander.assert_alive(&stopped);
    pod.wait().assert_exit(137);

    let mut killed = t.pod().app("a", "process-sleep 60").start();
    killed.signal(Signal::KILL);
    killed.wait();
    bystander.takes_the_number_in(&t.pod_directory(&killed.uuid).join("pid"));
    for words in [&["stop", &killed.uuid][..], &["stop", "--force", &killed.uuid], &["gc", "--grace-period=0s"]] {
        let outcome = t.cli(words);
        outcome.assert_exit(0);
        bystander.assert_alive(&outcome);
    }
});

/// Names that are paths, options, or no names at all.
const NO_NAMES: &[&str] =
    &["..", ".", "../../x", "a/b", "/etc", "a..b/..", "-a", "a-", "A", "a b", "a\nb", "ä", "a\u{202e}b", "a%2fb", "*"];

// crun 1.28: ids with `..` and slashes became paths.
stage_test!(crun_1_28_names_are_of_one_strict_charset, |t| {
    let image = t.probe();
    let long = "a".repeat(300);
    let stage1 = format!("--stage1={}", t.stage1());
    let before = t.uuids().len();
    for name in NO_NAMES.iter().copied().chain(["", &long]) {
        let name_flag = format!("--name={name}");
        let pod = t.cli(["run", &stage1, "--net=none", &name_flag, image, "--", "true"]);
        assert_eq!((pod.code, pod.stderr.lines().count() <= 2), (2, true), "{pod}");
        let app = t.cli(["run", &stage1, "--net=none", image, &name_flag, "--", "true"]);
        assert_eq!((app.code, app.stderr.lines().count() <= 2), (2, true), "{app}");
        for verb in ["status", "cat-manifest", "stop", "rm"] {
            let named = t.cli([verb, "--", name]);
            assert!([2, 125].contains(&named.code), "{named}");
        }
    }
    assert_eq!(t.uuids().len(), before, "a pod was left");
});

/// On the host, so in namespaces only: a machine brings its own kernel.
#[test]
fn a_kernel_without_seccomp_is_an_error_not_a_warning() {
    tests::on_stage("namespaces", "without-seccomp", without_seccomp);
}

fn without_seccomp(t: &Test) {
    let image = t.probe();
    let run = |flags: &[&str]| {
        let pod = t.pod_command([&["run", "--net=none", image][..], flags, &["--", "print", "ran"]].concat());
        let mut command = t.program("probe");
        command.arg("without-seccomp").arg(pod.get_program()).args(pod.get_args());
        Outcome::of(&mut command)
    };
    let refused = run(&[]);
    refused.assert_refused(125, "seccomp");
    assert!(refused.stdout.is_empty(), "the app ran: {refused}");
    // Who asks for none gets none.
    run(&["--seccomp=unconfined"]).assert_exit(0).assert_stdout("ran");
}
