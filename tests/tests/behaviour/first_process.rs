//! What PID 1 of the pod does for its apps beside starting them.

use tests::stage_test;

stage_test!(what_an_app_leaves_ends_with_it, |t| {
    let pod = t
        .pod()
        .flag("--volume=v,kind=empty --mount=volume=v,target=/v")
        .app("a", "process-orphan 60 then file-write /v/orphaned x then file-await /v/counted")
        .app("b", "file-await /v/orphaned then process-count then file-write /v/counted x then process-await-count 2")
        .run();
    // PID 1, both apps and the orphan; then PID 1 and the app that counts.
    pod.assert_exit(0).assert_stdout("4");
});

stage_test!(an_app_says_that_it_is_ready, |t| {
    let pod = t.pod().app("a", "net-notify READY=1 then process-sleep 60").with("--notify").start();
    t.cli(["status", "--wait-ready", &pod.uuid]).assert_exit(0);
});

stage_test!(an_app_without_readiness_has_no_socket_for_it, |t| {
    t.pod().app("a", "environment NOTIFY_SOCKET then file-exists /dev/notify").run().assert_stdout("unset\nfalse");
});
