//! The files that the program itself puts into an app, and what every app starts with, whatever the caller has about him.

use tests::{Outcome, Test, caller, stage_test};

/// The three that are bound over those of the image.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
/// So that there is a resolv.conf on every machine.
const DNS: &str = "--dns=192.0.2.1";
/// An app may write this much to them beyond what they hold at first.
const ROOM_KIB: u64 = 64;

/// The action for each file, in a row.
fn each(action: &str) -> String {
    FILES.map(|file| format!("{action} {file}")).join(" then ")
}

fn modes_and_umask(t: &Test) {
    // All that is made for the app: files, mount points, the working directory, the socket for notifications.
    let words = format!(
        "{} then file-stat /etc then file-stat /made/mount then file-stat /made/too then file-stat /made \
            then file-stat /dev/notify then file-stat /dev/null then file-stat /proc then process-umask \
            then file-write /tmp/new x then file-stat /tmp/new",
        each("file-stat")
    );
    let dirs = ["0:0 0755"; 4];
    for (user, owner) in [("root", "0:0"), ("alice", "1000:1000")] {
        let pod = t.pod().flag(DNS).flag("--volume=v,kind=empty").app("a", &words).with(&format!("--user={user}"));
        let pod = pod.with("--mount=volume=v,target=/made/mount --working-dir=/made/too --notify").run();
        let made = [["0:0 0644"; 3].as_slice(), &dirs, &["0:0 0666", "0:0 0666", "0:0 0555", "0022"]].concat();
        let new = format!("{owner} 0644");
        let expected = made.into_iter().chain([new.as_str()]).collect::<Vec<_>>().join("\n");
        pod.assert_exit(0).assert_stdout(&expected);
    }
}

stage_test!(what_is_made_for_an_app_is_as_chosen_with_an_open_umask, |t| {
    caller::with_umask(t, 0o000, modes_and_umask);
});

stage_test!(what_is_made_for_an_app_is_as_chosen_with_the_usual_umask, |t| {
    caller::with_umask(t, 0o022, modes_and_umask);
});

stage_test!(what_is_made_for_an_app_is_as_chosen_with_a_strict_umask, |t| {
    caller::with_umask(t, 0o077, modes_and_umask);
});

stage_test!(the_files_of_the_pod_are_not_for_every_user_to_write, |t| {
    let words = format!("{} then {}", each("file-try-write"), each("file-read"));
    let pod = t.pod().flag(DNS).flag("--hostname=h").app("a", &words).with("--user=alice").run();
    pod.assert_exit(0);
    assert!(pod.stdout.starts_with("EACCES\nEACCES\nEACCES\nh\n127.0.0.1\tlocalhost"), "{}", pod.outcome);
    t.pod().flag(DNS).app("a", &each("file-try-write")).run().assert_exit(0).assert_stdout("ok\nok\nok");
});

stage_test!(the_files_of_the_pod_are_read_only_where_the_root_is, |t| {
    let pod = t
        .pod()
        .flag(DNS)
        .flag("--hostname=h")
        .app("a", &format!("{} then file-read /etc/hostname", each("file-try-write")));
    pod.with("--readonly-rootfs").run().assert_exit(0).assert_stdout("EROFS\nEROFS\nEROFS\nh");
});

stage_test!(the_files_of_the_pod_are_bounded_for_each_app, |t| {
    let pod = t.pod().flag(DNS).flag("--volume=v,kind=empty --mount=volume=v,target=/v");
    let filler = format!("{} then file-write /v/full x then process-sleep 600", each("file-fill"));
    let other = "file-await /v/full then file-append /etc/hosts more then file-write /v/written x";
    let mut pod = pod.app("a", &filler).app("b", other).start();
    pod.exec("a", &["/probe", "file-await", "/v/written"]).assert_exit(0);
    let outcome = pod.stop();
    outcome.assert_exit(143);
    let filled: u64 = outcome
        .stdout
        .lines()
        .map(|line| {
            line.strip_prefix("ENOSPC after KiB ").and_then(|kib| kib.parse::<u64>().ok()).expect(&outcome.stdout)
        })
        .sum();
    assert!((ROOM_KIB / 2..=ROOM_KIB + 12).contains(&filled), "{filled} KiB: {outcome}");
});

stage_test!(signals_of_the_caller_are_not_the_apps, |t| {
    let probe = t.probe();
    let words = ["run", &format!("--stage1={}", t.stage1()), "--net=none", probe, "--", "report"];
    let outcome = Outcome::of(&mut caller::without_signals(&t.pod_command(words)));
    let report = outcome.assert_exit(0).json();
    assert_eq!(report["signals_blocked"], "0000000000000000");
    // The runtime of the probe ignores SIGPIPE itself.
    assert_eq!(report["signals_ignored"], "0000000000001000");
});

stage_test!(what_exec_starts_has_the_same_umask, |t| {
    let pod = t.pod().app("a", "process-sleep 600").start();
    pod.exec("a", &["/probe", "process-umask"]).assert_exit(0).assert_stdout("0022");
});
