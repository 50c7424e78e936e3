//! What decides what runs as root is refused when others can change it, as sudo refuses its own files, and the advice puts
//! it right. Everything lies below a sticky directory of root's, where it counts as safe until the test opens it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::{Outcome, Test};

/// It is stage0 that refuses, so one stage1 is enough.
fn on_host(name: &str, body: fn(&Test)) {
    tests::on_stage("namespaces", name, body);
}

/// Somebody who is not root.
const SOMEBODY: u32 = 1000;

fn run(t: &Test) -> Outcome {
    let stage1 = format!("--stage1={}", t.stage1());
    t.cli(["run", &stage1, "--net=none", t.probe(), "--", "print", "ran"])
}

fn set(path: &Path, uid: u32, gid: u32, mode: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The command is refused because of `path`. What it advises is typed as it stands, until the command works.
#[track_caller]
fn assert_refused_until_advice_is_taken(path: &Path, command: impl Fn() -> Outcome) {
    let mut outcome = command();
    outcome.assert_exit(125);
    for _ in 0..3 {
        let hint = outcome.stderr.lines().find_map(|line| line.strip_prefix("hint: `"));
        let hint = hint.and_then(|hint| hint.split('`').next()).unwrap_or_else(|| panic!("no advice: {outcome}"));
        assert!(outcome.stderr.contains(&format!("`{}`", path.display())), "{outcome}");
        assert!(Command::new("sh").args(["-c", hint]).status().unwrap().success(), "{hint}");
        outcome = command();
        if outcome.code == 0 {
            return;
        }
    }
    panic!("the advice does not help: {outcome}");
}

/// Owners and modes by which somebody else can change a file or a directory.
static OPEN: [(u32, u32, u32); 4] = [(0, 0, 0o757), (0, SOMEBODY, 0o775), (SOMEBODY, SOMEBODY, 0o755), (0, 0, 0o777)];

/// All of them for the first path, one for each further one.
fn open(index: usize) -> &'static [(u32, u32, u32)] {
    if index == 0 { &OPEN } else { &OPEN[index % OPEN.len()..][..1] }
}

/// Opened to others by hand: the directories of a test's own are closed to them as a whole.
fn reachable(t: &Test) {
    fs::set_permissions(t.data().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn trust_rules_that_others_can_change_are_refused() {
    on_host("trust_rules_that_others_can_change_are_refused", |t| {
        reachable(t);
        run(t).assert_exit(0).assert_stdout("ran");
        let directory = t.local_config().join("trust.d");
        let rule = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
        fs::create_dir(directory.join("revoked")).unwrap();
        let paths = [rule.clone(), directory.join("revoked"), directory.clone(), t.local_config()];
        for (index, path) in paths.into_iter().enumerate() {
            for &(uid, gid, mode) in open(index) {
                set(&path, uid, gid, mode);
                assert_refused_until_advice_is_taken(&path, || run(t));
            }
            // A group whose only member is root is no danger.
            set(&path, 0, 0, 0o775);
            run(t).assert_exit(0);
        }
        // A link to a file of root's in a directory of root's is the administrator's business; elsewhere it is everybody's.
        let elsewhere = t.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::rename(&rule, elsewhere.join("rule.json")).unwrap();
        symlink(elsewhere.join("rule.json"), &rule).unwrap();
        run(t).assert_exit(0).assert_stdout("ran");
        set(&elsewhere, 0, 0, 0o777);
        assert_refused_until_advice_is_taken(&elsewhere, || run(t));
    });
}

#[test]
fn a_store_and_pods_that_others_can_change_are_refused() {
    on_host("a_store_and_pods_that_others_can_change_are_refused", |t| {
        reachable(t);
        run(t).assert_exit(0).assert_stdout("ran");
        fs::create_dir_all(t.data().join("ids")).unwrap();
        let pods = ["pods", "pods/run", "pods/exited-garbage", "ids"];
        let paths = ["", "images"].into_iter().chain(pods).map(|name| t.data().join(name));
        for (index, path) in paths.enumerate() {
            let path = PathBuf::from(path.display().to_string().trim_end_matches('/'));
            for &(uid, gid, mode) in open(index) {
                set(&path, uid, gid, mode);
                assert_refused_until_advice_is_taken(&path, || run(t));
            }
        }
        // Set-user-id programs of images must not be within reach of the host's users.
        set(&t.data(), 0, 0, 0o755);
        set(&t.data().join("images"), 0, 0, 0o755);
        assert_refused_until_advice_is_taken(&t.data().join("images"), || run(t));
        // Commands that only look are held to the same: what they show decides what is done next.
        set(&t.data().join("pods"), 0, 0, 0o777);
        t.cli(["list"]).assert_refused(125, "everybody may write");
        set(&t.data().join("pods"), 0, 0, 0o700);
        t.cli(["list"]).assert_exit(0);
    });
}

#[test]
fn a_data_directory_that_is_not_there_is_not_made_among_others() {
    on_host("a_data_directory_that_is_not_there_is_not_made_among_others", |t| {
        let open = t.path("open");
        fs::create_dir(&open).unwrap();
        let data = open.join("data").display().to_string();
        let list = || Outcome::of(t.program("pod").args(["--dir", &data, "image", "list"]));
        set(&open, 0, 0, 0o777);
        assert_refused_until_advice_is_taken(&open, || {
            let outcome = list();
            assert!(outcome.code == 0 || !open.join("data").exists(), "made all the same: {outcome}");
            outcome
        });
        fs::remove_dir_all(open.join("data")).unwrap();
        set(&open, 0, 0, 0o1777);
        list().assert_exit(0);
        // Somebody made the directory first.
        fs::remove_dir_all(open.join("data")).unwrap();
        fs::create_dir(open.join("data")).unwrap();
        set(&open.join("data"), SOMEBODY, SOMEBODY, 0o755);
        list().assert_refused(125, "belongs to user 1000");
    });
}

#[test]
fn a_stage1_that_others_can_change_is_refused() {
    on_host("a_stage1_that_others_can_change_is_refused", |t| {
        reachable(t);
        let directory = t.path("stage1");
        fs::create_dir(&directory).unwrap();
        let program = format!("stage1-{}", t.stage1());
        fs::copy(tests::executables().join(format!("{program}.json")), directory.join("stage1.json")).unwrap();
        for name in [&program, "stage2"] {
            fs::copy(tests::executables().join(name), directory.join(name)).unwrap();
        }
        let app = t.probe();
        let stage1 = format!("--stage1={}", directory.display());
        let run = || t.cli(["run", &stage1, "--net=none", app, "--", "print", "ran"]);
        run().assert_exit(0).assert_stdout("ran");
        let paths = [directory.clone(), directory.join("stage1.json"), directory.join(&program)];
        for (index, path) in paths.into_iter().enumerate() {
            for &(uid, gid, mode) in open(index) {
                set(&path, uid, gid, mode);
                assert_refused_until_advice_is_taken(&path, run);
            }
            set(&path, 0, 0, 0o755);
        }
        // A prepared pod begins with the program that is there then.
        let prepared = t.cli(["prepare", &stage1, "--net=none", app, "--", "print", "ran"]);
        let uuid = prepared.assert_exit(0).stdout.trim().to_owned();
        set(&directory.join(&program), 0, 0, 0o777);
        t.cli(["run-prepared", &uuid]).assert_refused(125, "everybody may write");
        set(&directory.join(&program), 0, 0, 0o755);
    });
}

#[test]
fn registry_settings_that_others_can_change_are_refused() {
    on_host("registry_settings_that_others_can_change_are_refused", |t| {
        reachable(t);
        let rules = t.local_config().join("registries.d");
        fs::create_dir(&rules).unwrap();
        let rule = rules.join("a.json");
        fs::write(&rule, r#"{"registry": "localhost:1", "plain-http": true}"#).unwrap();
        // Nothing listens there; whether the settings are taken shows in what is said.
        let fetch = || {
            let mut outcome = t.cli(["fetch", "docker://localhost:1/app"]);
            outcome.assert_exit(125);
            outcome.code = if outcome.stderr.contains("are open to others") { 125 } else { 0 };
            outcome
        };
        fetch().assert_ok();
        for (index, path) in [&rule, &rules].into_iter().enumerate() {
            for &(uid, gid, mode) in open(index) {
                set(path, uid, gid, mode);
                assert_refused_until_advice_is_taken(path, fetch);
            }
        }
    });
}
