//! Exit codes, signals, standard streams and restarts.

use contract::status::AppEnd;
use rustix::process::Signal;
use std::time::{Duration, Instant};
use tests::stage_test;

stage_test!(an_app_that_ends_well_ends_the_pod_well, |t| {
    let pod = t.pod().app("a", "print hello").run();
    pod.assert_exit(0).assert_stdout("hello");
    assert_eq!(pod.stderr, "");
    assert_eq!(pod.status("a").end, Some(AppEnd::Code(0)));
});

stage_test!(first_failing_app_decides_the_exit_code, |t| {
    let pod = t.pod().app("a", "exit 3").app("b", "exit 0").run();
    pod.assert_exit(3);
    assert_eq!(pod.status("a").end, Some(AppEnd::Code(3)));
});

stage_test!(every_exit_code_arrives, |t| {
    for code in [1, 2, 77, 124, 125, 126, 127, 200, 255] {
        t.pod().app("a", &format!("exit {code}")).run().assert_exit(code);
    }
});

stage_test!(an_app_killed_by_a_signal_is_128_and_the_signal, |t| {
    for signal in [1, 6, 9, 11, 15] {
        let pod = t.pod().app("a", &format!("process-signal {signal}")).run();
        pod.assert_exit(128 + signal);
        assert_eq!(pod.status("a").end, Some(AppEnd::Signal(signal as u8)));
    }
});

stage_test!(a_program_that_is_not_there_is_127, |t| {
    for program in ["/no/such/program", "nothing-in-path", "/etc/passwd/below"] {
        let pod = t.pod().app("a", "").with(&format!("--exec={program}")).run();
        pod.assert_exit(127).assert_stderr_has(program);
        assert!(
            matches!(pod.status("a").end, Some(AppEnd::Failed { exit: 127, .. })),
            "{pod:?}",
            pod = pod.status("a")
        );
    }
});

stage_test!(a_program_that_cannot_be_executed_is_126, |t| {
    for program in ["/etc/passwd", "/etc"] {
        let pod = t.pod().app("a", "").with(&format!("--exec={program}")).run();
        pod.assert_exit(126).assert_stderr_has(program);
    }
});

stage_test!(a_failing_app_stops_the_others, |t| {
    let begin = Instant::now();
    let pod = t.pod().app("a", "process-sleep 60").app("b", "process-sleep 0.2 then exit 4").run();
    pod.assert_exit(4);
    assert!(begin.elapsed() < Duration::from_secs(30), "the other app was waited for");
    assert_eq!(pod.status("b").end, Some(AppEnd::Code(4)));
    assert!(pod.status("a").end.is_some());
});

stage_test!(an_app_that_ends_well_does_not_stop_the_others, |t| {
    let pod = t.pod().app("a", "exit 0").app("b", "process-sleep 0.3 then print still here").run();
    pod.assert_exit(0).assert_stdout("still here");
});

stage_test!(sigterm_to_the_pod_asks_the_app_to_end, |t| {
    let mut pod = t.pod().app("a", "process-trap 15 then print ready then process-await-signal 15 then exit 5").start();
    pod.await_line("ready");
    pod.stop().assert_exit(5).assert_stdout("signal 15");
});

stage_test!(an_app_that_dies_of_sigterm_is_143, |t| {
    t.pod().app("a", "process-sleep 60").start().stop().assert_exit(143);
});

stage_test!(an_app_that_ignores_sigterm_is_killed_after_its_grace_time, |t| {
    let pod = t.pod().app("a", "process-trap 15 then print ready then process-sleep 60").with("--stop-timeout=300ms");
    let mut pod = pod.start();
    pod.await_line("ready");
    let begin = Instant::now();
    pod.stop().assert_exit(137);
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(20), "{waited:?}");
});

stage_test!(the_stop_signal_is_the_apps_own, |t| {
    let pod = t.pod().app("a", "process-trap 10 15 then print ready then process-await-signal 10 15");
    let mut pod = pod.with("--stop-signal=SIGUSR1").start();
    pod.await_line("ready");
    pod.stop().assert_exit(0).assert_stdout("signal 10");
});

stage_test!(other_signals_are_passed_on, |t| {
    let mut pod = t.pod().app("a", "process-trap 1 12 then print ready then process-await-signal 1 12").start();
    pod.await_line("ready");
    pod.signal(Signal::HUP);
    pod.wait().assert_exit(0).assert_stdout("signal 1");
});

stage_test!(orphans_are_reaped, |t| {
    // The probe itself and PID 1; a zombie would be a third.
    let words = "process-orphan 0.1 then process-orphan 0.1 then process-sleep 0.5 then process-count";
    t.pod().app("a", words).run().assert_exit(0).assert_stdout("2");
});

stage_test!(standard_streams_stay_apart, |t| {
    let pod = t.pod().app("a", "print to-out then complain to-err").run();
    pod.assert_exit(0).assert_stdout("to-out");
    assert_eq!(pod.stderr.trim(), "to-err");
});

stage_test!(much_output_arrives_whole, |t| {
    let pod = t.pod().app("a", "stream-bytes 3000000").run();
    pod.assert_exit(0);
    assert_eq!(pod.stdout.len(), 3_000_000);
});

stage_test!(standard_input_is_empty_unless_asked_for, |t| {
    t.pod().app("a", "stream-copy then print end").run().assert_exit(0).assert_stdout("end");
    let mut command = t.pod().app("a", "stream-copy").with("--stdin=inherit").spawnable().0;
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "typed\n");
    assert_eq!(output.status.code(), Some(0));
});

stage_test!(an_app_is_started_again_as_told, |t| {
    let pod = t.pod().app("a", "print again then exit 3").with("--restart=on-failure:2,delay=10ms").run();
    pod.assert_exit(3).assert_stdout("again\nagain\nagain");
    assert_eq!(pod.status("a").restarts, 2);
});

stage_test!(an_app_that_ends_well_is_not_started_again_on_failure, |t| {
    let pod = t.pod().app("a", "print once").with("--restart=on-failure").run();
    pod.assert_exit(0).assert_stdout("once");
});

stage_test!(an_app_that_is_always_restarted_ends_with_the_pod, |t| {
    let mut pod = t
        .pod()
        .app("a", "file-append /tmp/starts x then file-read /tmp/starts")
        .with("--restart=always,delay=10ms")
        .start();
    pod.await_line("x");
    pod.await_line("x");
    let outcome = pod.stop();
    assert!(outcome.code == 0 || outcome.code == 143, "{outcome}");
});
