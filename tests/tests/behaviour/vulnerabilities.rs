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

/// Files of a runtime's own, as krun, podman, Docker and this project call them, or might.
const OWN_NAMES: &[&str] = &[
    ".krun_config.json",
    "config.json",
    "pod.json",
    "host.json",
    "control.sock",
    ".dockerenv",
    "stage2",
    "apps",
    "volumes",
    "files",
    "run/.containerenv",
    "run/pod.json",
    "dev/.krun_config.json",
];

// crun and krun CVE-2025-24965: a configuration written into the root, through a link that the image put there. What an app finds
// in its root is what the image has, and the mount points; the links lead to a volume of the pod that no app mounts.
stage_test!(cve_2025_24965_nothing_of_ours_is_written_into_the_root, |t| {
    let victim = t.path("victim");
    fs::create_dir(&victim).unwrap();
    let target = format!("{}/victim/written", contract::stage2::VOLUMES);
    let layer = tests::probe_layer(&tests::probe_bytes()).directory("run", 0o755).directory("dev", 0o755);
    let layer = OWN_NAMES.iter().fold(layer, |layer, name| layer.symlink(name, &target));
    let mut recipe = tests::image::Recipe::new([layer]);
    recipe.entrypoint = vec!["/probe".into()];
    let image = t.signed(&recipe, "example.com/own-names:1").display().to_string();
    let volume = format!("--volume=victim,kind=host,source={}", victim.display());
    let words = "report then file-list /run then file-exists /dev/.krun_config.json";
    let pod = t.pod().flag(&volume).app_of(&image, "a", words).run();
    pod.assert_exit(0);
    let lines: Vec<&str> = pod.stdout.lines().collect();
    let [report, run, in_dev] = lines.as_slice() else { panic!("{}", pod.outcome) };
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let found = report["root"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    let of_image = ["dev", "etc", "home", "probe", "root", "run", "srv", "tmp"].into_iter();
    let top = OWN_NAMES.iter().copied().filter(|name| !name.contains('/'));
    let expected: std::collections::BTreeSet<String> =
        of_image.chain(["proc", "sys"]).chain(top).map(str::to_owned).collect();
    assert_eq!(found.collect::<std::collections::BTreeSet<_>>(), expected);
    assert_eq!((*run, *in_dev), (".containerenv pod.json", "false"));
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "something was written through a link");
});
