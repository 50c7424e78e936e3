//! Several apps in one pod: what they share and what they do not.

use tests::stage_test;

stage_test!(three_apps_share_a_volume_and_localhost_but_no_root, |t| {
    let pod = t
        .pod()
        .flag("--volume=data,kind=empty")
        .app(
            "server",
            "file-write /only-here x then file-await /data/go then net-serve 4000 pong then file-exists /only-here",
        )
        .with("--mount=volume=data,target=/data")
        .app("client", "file-write /srv/go yes then net-ask 4000 then file-exists /only-here")
        .with("--mount=volume=data,target=/srv")
        .app("third", "file-await /third/go then file-list /third then exit 9")
        .with("--mount=volume=data,target=/third")
        .run();
    // The third app ends the pod, so the others may be cut short; the client's answer may or may not have come.
    pod.assert_exit(9);
    assert!(pod.stdout.contains("go"), "{}", pod.outcome);
});

stage_test!(apps_talk_over_localhost_without_a_network, |t| {
    let pod = t.pod().app("server", "net-serve 4000 pong").app("client", "net-ask 4000").run();
    pod.assert_exit(0).assert_stdout("pong");
});

stage_test!(apps_see_each_others_processes_but_not_each_others_files, |t| {
    let pod = t
        .pod()
        .flag("--volume=v,kind=empty --mount=volume=v,target=/v")
        .app("a", "file-write /tmp/of-a x then file-write /v/a x then file-await /v/b")
        .app("b", "file-await /v/a then file-exists /tmp/of-a then process-count then file-write /v/b x")
        .run();
    pod.assert_exit(0);
    let lines: Vec<&str> = pod.stdout.lines().collect();
    assert_eq!(lines[0], "false", "{}", pod.outcome);
    assert_eq!(lines[1], "3", "PID 1 and both apps: {}", pod.outcome);
});

stage_test!(two_apps_of_one_name_are_refused, |t| {
    let pod = t.pod().app("a", "true").app("a", "true").run();
    pod.assert_refused(if pod.code == 2 { 2 } else { 125 }, "`a`");
});

stage_test!(apps_of_one_image_get_names_of_their_own, |t| {
    let image = t.probe();
    let stage1 = format!("--stage1={}", t.stage1());
    t.cli(["run", &stage1, "--net=none", image, "--", "print", "x"]).assert_exit(0).assert_stdout("x");
    let pods = t.cli(["list", "--format=json"]).json();
    assert!(pods.to_string().contains("\"probe\""), "{pods}");
});
