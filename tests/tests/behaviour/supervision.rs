//! The laws of a supervisor: what it does with signals, requests, clients and deaths, the same on every stage1.

use contract::control::{Reply, Request};
use contract::status::{AppEnd, AppStatus};
use rustix::process::Signal;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::control::Client;
use tests::{Outcome, Running, Test, stage_test};

/// Polls until the condition holds.
#[track_caller]
fn await_that(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < time, "waited {} s in vain: {what}", time.as_secs());
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn status_now(t: &Test, uuid: &str, app: &str) -> Option<AppStatus> {
    let file = t.pod_directory(uuid).join(contract::dir::STATUS).join(app);
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// A pod whose app was told to end, has said so, and does not.
fn stubborn(t: &Test) -> Running<'_> {
    let words = "process-trap 2 15 then print ready then process-await-signal 15 then process-sleep 600";
    let mut pod = t.pod().app("a", words).with("--stop-timeout=90s").start();
    pod.await_line("ready");
    pod.signal(Signal::TERM);
    pod.await_line("signal 15");
    pod
}

stage_test!(a_second_signal_ends_the_wait, |t| {
    for signal in [Signal::TERM, Signal::INT] {
        let mut pod = stubborn(t);
        let begin = Instant::now();
        pod.signal(signal);
        pod.wait().assert_exit(137);
        assert!(begin.elapsed() < Duration::from_secs(30), "{signal:?}: {:?}", begin.elapsed());
    }
});

stage_test!(a_second_stop_gives_no_more_time, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    // PID 1 or the hypervisor stands still, so only the supervisor itself can end the pod.
    pod.signal_container(Signal::STOP);
    let directory = t.pod_directory(&pod.uuid);
    for grace_millis in [0, 600_000] {
        let client = Client::connect(&directory);
        client.send(&Request::Stop { grace_millis: Some(grace_millis) });
        assert_eq!(client.receive(), Some(Reply::Accepted));
    }
    let begin = Instant::now();
    pod.wait().assert_exit(137).assert_stderr_has("did not stop in time");
    assert!(begin.elapsed() < Duration::from_secs(60));
    let status = t.cli(["status", &pod.uuid]);
    status.assert_ok();
    assert!(status.stdout.contains("app-a=137") && status.stdout.contains("did not stop in time"), "{status}");
});

stage_test!(a_killed_pod_leaves_the_status_of_every_app, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").app("b", "process-sleep 600").start();
    pod.signal_container(Signal::KILL);
    let outcome = pod.wait();
    assert!([125, 137].contains(&outcome.code), "{outcome}");
    outcome.assert_stderr_has("killed by signal 9");
    for app in ["a", "b"] {
        assert_eq!(pod.status(app).end, Some(AppEnd::Signal(9)), "{app}");
    }
    let status = t.cli(["status", &pod.uuid]);
    status.assert_ok();
    assert!(status.stdout.contains("app-b=137") && status.stdout.contains("killed by signal 9"), "{status}");
    let json = t.cli(["status", "--format=json", &pod.uuid]).json();
    assert_eq!(json["exit_code"], 137, "{json}");
});

/// `pod exec` in app `a`, with its output in a pipe.
fn exec(t: &Test, uuid: &str, words: &str) -> Child {
    let mut command = t.pod_command(["exec", uuid, "--", "/probe"]);
    command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pod exec")
}

fn first_line(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().expect("a pipe");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while stdout.read(&mut byte).is_ok_and(|count| count == 1) && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).into_owned()
}

stage_test!(a_vanished_exec_client_hangs_up_its_process, |t| {
    let mut pod = t.pod().app("a", "file-await /tmp/gone then file-read /tmp/gone then exit 6").start();
    let words = "process-trap 1 then print ready then process-await-signal 1 then \
                 file-write /tmp/going hung-up then file-link /tmp/gone /tmp/going";
    let mut client = exec(t, &pod.uuid, words);
    assert_eq!(first_line(&mut client), "ready");
    client.kill().unwrap();
    client.wait().unwrap();
    pod.wait().assert_exit(6).assert_stdout("hung-up");
});

stage_test!(a_client_too_many_is_refused_with_a_sentence, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    let directory = t.pod_directory(&pod.uuid);
    let clients: Vec<Client> = (0..64).map(|_| Client::connect(&directory)).collect();
    let more = Client::connect(&directory);
    more.send(&Request::Status);
    let Some(Reply::Refused { message }) = more.receive() else { panic!("it was not refused") };
    assert!(message.contains("64 control connections"), "{message}");
    // Once there is room again, a client is heard.
    drop(clients);
    t.cli(["status", "--wait-ready", &pod.uuid]).assert_ok();
    pod.stop();
});

stage_test!(a_restart_is_counted_when_it_happens, |t| {
    let mut pod =
        t.pod().app("a", "exit 3").with("--restart=on-failure:1,delay=3s").app("b", "process-sleep 600").start();
    let now = || status_now(t, &pod.uuid, "a").expect("it has started");
    await_that("the end of `a`", Duration::from_secs(20), || now().ended_unix_nanos.is_some());
    assert_eq!((now().end, now().restarts), (Some(AppEnd::Code(3)), 0), "while it waits for its second start");
    pod.wait().assert_exit(3);
    assert_eq!(pod.status("a").restarts, 1);
});

stage_test!(a_bad_description_is_refused, |t| {
    for (change, sentence) in [
        (
            &(|pod: &mut serde_json::Value| pod["apps"] = serde_json::json!([])) as &dyn Fn(&mut serde_json::Value),
            "apps, not 0",
        ),
        (
            &|pod| pod["volumes"] = serde_json::json!([pod["volumes"][0], pod["volumes"][0]]),
            "two volumes are named `v`",
        ),
        (&|pod| pod["version"] = 7.into(), "version"),
    ] {
        let uuid = t.pod().flag("--volume=v,kind=empty").app("a", "true").app("b", "true").prepare();
        let file = t.pod_directory(&uuid).join(contract::dir::POD);
        let mut pod = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        change(&mut pod);
        fs::write(&file, pod.to_string()).unwrap();
        t.cli(["run-prepared", "--net=none", &uuid]).assert_refused(125, sentence);
    }
});

/// Starts a pod and returns as soon as it has a UUID, long before its app runs.
fn just_started(t: &Test) -> (Child, String) {
    let (mut command, file) = t.pod().app("a", "process-sleep 600").spawnable();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let running = || {
        let uuid = fs::read_to_string(&file).unwrap_or_default();
        !uuid.is_empty() && t.data().join("pods/run").join(uuid.trim()).exists()
    };
    await_that("the pod's directory", Duration::from_secs(20), running);
    (child, fs::read_to_string(&file).unwrap().trim().to_owned())
}

stage_test!(an_exec_waits_for_its_app, |t| {
    for _ in 0..3 {
        let (mut pod, uuid) = just_started(t);
        t.cli(["exec", &uuid, "--", "/probe", "print", "within"]).assert_ok().assert_stdout("within");
        t.cli(["stop", &uuid]).assert_ok();
        pod.wait().unwrap();
    }
});

stage_test!(an_exec_that_waits_can_be_interrupted, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    pod.signal_container(Signal::STOP);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut client = exec(t, &pod.uuid, "print within");
        let blocks = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("SigBlk:") && !line.ends_with("0000000000000000"))
        };
        await_that("that it takes signals", Duration::from_secs(20), || blocks(client.id()));
        rustix::process::kill_process(rustix::process::Pid::from_child(&client), signal).unwrap();
        let mut ended = || client.try_wait().unwrap();
        await_that("the end of the client", Duration::from_secs(10), || ended().is_some());
        assert_eq!(client.wait().unwrap().code(), Some(code));
    }
    pod.signal_container(Signal::CONT);
    t.cli(["exec", &pod.uuid, "--", "/probe", "print", "within"]).assert_ok().assert_stdout("within");
    pod.stop();
});

stage_test!(an_exec_in_an_app_that_has_ended_is_refused, |t| {
    let mut pod = t.pod().app("a", "exit 0").app("b", "process-sleep 600").start();
    await_that("the end of `a`", Duration::from_secs(20), || {
        status_now(t, &pod.uuid, "a").is_some_and(|status| status.end.is_some())
    });
    pod.exec("a", &["/probe", "true"]).assert_refused(125, "the app `a` is not running");
    pod.stop();
});

stage_test!(the_status_says_why_a_pod_did_not_start, |t| {
    let volume = t.path("volume");
    fs::create_dir(&volume).unwrap();
    let flag = format!("--volume=v,kind=host,source={} --mount=volume=v,target=/v", volume.display());
    let uuid = t.pod().flag(&flag).app("a", "true").prepare();
    fs::remove_dir(&volume).unwrap();
    let outcome = t.cli(["run-prepared", "--net=none", &uuid]);
    outcome.assert_refused(125, "no such file or directory");
    let status = t.cli(["status", &uuid]);
    let line = status.stdout.lines().find(|line| line.starts_with("app-a=125 (")).unwrap_or_default();
    assert!(line.contains("no such file or directory"), "{status}");
    assert_eq!(t.cli(["status", "--format=json", &uuid]).json()["exit_code"], 125);
});

stage_test!(a_reader_that_leaves_ends_the_writer, |t| {
    let (mut command, _) = t.pod().app("a", "stream-bytes 4000000000").spawnable();
    let line = format!("{command:?}");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    // The probe, as any program of Rust's, ignores SIGPIPE and sees the error.
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(99), "{line}: {text}");
    assert!(text.contains("Broken pipe"), "{line}: {text}");
});

stage_test!(a_message_cannot_turn_the_line_around, |t| {
    let pod = t.pod().app("a", "").with_one("--exec=/no/such/\u{202e}txt\u{1b}[31m").run();
    pod.assert_refused(127, "\\u{202e}txt\\u{1b}[31m");
    assert!(!pod.stderr.contains('\u{202e}') && !pod.stderr.contains('\u{1b}'), "{}", pod.outcome);
});

stage_test!(a_second_exec_does_not_wait_for_the_first, |t| {
    let mut pod = t.pod().app("a", "process-sleep 600").start();
    let mut first = exec(t, &pod.uuid, "print ready then process-sleep 600");
    assert_eq!(first_line(&mut first), "ready");
    pod.exec("a", &["/probe", "print", "second"]).assert_ok().assert_stdout("second");
    // A group of its own, as a shell's: what is typed at its terminal reaches `pod stop` alone.
    let stop = Outcome::of(t.pod_command(["stop", &pod.uuid]).process_group(0));
    stop.assert_ok();
    pod.wait();
    assert_eq!(first.wait().unwrap().code(), Some(137));
});
