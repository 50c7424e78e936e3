//! The laws as tables: the inputs of one pod, in order, and what follows from each.

use super::*;

const A: &str = "a";
const B: &str = "b";

const POD: &str = r#"{"version": 1, "uuid": "0b2c44c6-2b3d-4a51-9ab0-3bb1b9c2b7aa", "created_unix_secs": 0, "hostname": "h",
    "ipc": "private", "network": {"mode": "none"}, "apps": [APP_A, APP_B]}"#;
const APP: &str = r#"{"name": "NAME", "image": {"id": "sha256:0", "name": "x", "trust": {"by": "digest"}},
    "root": {"layers": ["/s/1"], "read_only": false}, "exec": ["/x"], "user": "0", "working_directory": "/",
    "environment": [], "capabilities": [], "no_new_privileges": true, "seccomp": {"mode": "unconfined"},
    "restart": {"policy": "no"}, "stop": {"signal": 15, "grace_millis": GRACE}, "stdio": {"mode": "null"}}"#;

fn pod(grace_millis: u64) -> Pod {
    let app = |name: &str| APP.replace("NAME", name).replace("GRACE", &grace_millis.to_string());
    serde_json::from_str(&POD.replace("APP_A", &app(A)).replace("APP_B", &app(B))).expect("the sample is a pod")
}

fn now(millis: u64) -> Now {
    Now { millis, unix_nanos: millis * 1_000_000 }
}

fn name(text: &str) -> AppName {
    AppName::parse(text).unwrap()
}

fn started(app: &str) -> Event {
    Event::Started { app: name(app) }
}

fn ended(app: &str, end: AppEnd, again: bool) -> Event {
    Event::Ended { app: name(app), end, again }
}

fn exec(app: &str) -> Exec {
    Exec {
        app: name(app),
        arguments: vec!["x".to_owned()],
        environment: Vec::new(),
        user: None,
        working_directory: None,
        tty: None,
    }
}

fn stop(grace_millis: Option<u64>) -> Effect {
    Effect::Send(Command::Stop { grace_millis })
}

fn refused(client: ClientId, message: &str) -> Vec<Effect> {
    refuse(client, message.to_owned())
}

/// A pod in namespaces whose two apps run.
fn running(grace_millis: u64) -> Life {
    let mut life = Life::new(&pod(grace_millis), None, now(0));
    for app in [A, B] {
        assert_eq!(life.event(started(app), now(0)).unwrap(), []);
    }
    assert_eq!(life.due(now(20)).len(), 2, "both starts are recorded");
    life
}

#[test]
fn a_second_signal_ends_the_wait_and_a_third_the_pod() {
    for (first, second, third) in [(15, 2, 15), (2, 15, 2), (15, 15, 15)] {
        let mut life = running(90_000);
        assert_eq!(life.signal(first, now(100)), [stop(None)]);
        assert_eq!(life.next(), Some(100 + 90_000 + STOP_MARGIN_MILLIS));
        assert_eq!(life.signal(second, now(200)), [stop(Some(0))]);
        assert_eq!(life.next(), Some(200 + STOP_MARGIN_MILLIS));
        assert_eq!(life.signal(third, now(300)), [Effect::Kill]);
        let outcome = life.over(End::Signal(9), now(301));
        assert_eq!((outcome.exit, outcome.messages), (137, vec!["the pod was killed before it stopped".to_owned()]));
    }
    // A request before it counts as the first.
    let mut life = running(90_000);
    life.request(1, Request::Stop { grace_millis: None }, 0, now(0));
    assert_eq!(life.signal(libc::SIGTERM, now(1)), [stop(Some(0))]);
    assert_eq!(life.signal(libc::SIGUSR1, now(1)), [Effect::Send(Command::Signal { signal: libc::SIGUSR1 })]);
}

#[test]
fn a_later_stop_never_gives_more_time() {
    for (graces, end) in [
        (&[Some(1000), Some(60_000)][..], 1000),
        (&[Some(60_000), Some(1000)], 1000),
        (&[None, Some(u64::MAX)], 5000),
        (&[Some(u64::MAX)], GRACE_MILLIS_MAX),
    ] {
        let mut life = running(5000);
        for grace in graces {
            let effects = life.request(7, Request::Stop { grace_millis: *grace }, 0, now(20));
            assert_eq!(effects, [stop(*grace), Effect::Reply(7, Reply::Accepted), Effect::Close(7)]);
        }
        let at = 20 + end + STOP_MARGIN_MILLIS;
        assert_eq!((life.next(), life.due(now(at - 1))), (Some(at), vec![]));
        assert_eq!(life.due(now(at)), [Effect::Kill]);
        assert_eq!(life.due(now(at + 1)), [], "once");
    }
}

#[test]
fn a_pod_that_dies_under_stage2_leaves_the_true_cause() {
    let panic = "the guest's kernel panicked";
    type Act = fn(&mut Life);
    for (act, end, exit, cause) in [
        ((|_| ()) as Act, End::Signal(9), 137, "PID 1 of the pod was killed by signal 9"),
        (|_| (), End::Lost(panic.to_owned()), 125, panic),
        (
            |life| drop(life.event(Event::Failed { message: "x\nhint: y".to_owned() }, now(30))),
            End::Code(125),
            125,
            "x",
        ),
        (
            |life| drop(life.fail("virtiofsd is dead".to_owned())),
            End::Lost("killed".to_owned()),
            125,
            "virtiofsd is dead",
        ),
        (
            |life| {
                life.signal(15, now(30));
                life.due(now(1_000_000));
            },
            End::Lost("killed".to_owned()),
            137,
            "the pod did not stop in time and was killed",
        ),
    ] {
        let mut life = Life::new(&pod(0), None, now(0));
        life.event(started(A), now(1)).unwrap();
        life.due(now(25));
        act(&mut life);
        let outcome = life.over(end, now(40));
        assert_eq!(outcome.exit, exit, "{cause}");
        assert!(outcome.messages[0].starts_with(cause), "{outcome:?}");
        let status = life.apps().status(&name(A)).unwrap();
        assert_eq!((&status.end, status.cause.as_deref()), (&Some(AppEnd::Signal(9)), Some(cause)));
        let never = life.apps().status(&name(B)).unwrap();
        assert_eq!(never.end, Some(AppEnd::Failed { exit: 125, message: cause.to_owned() }));
        assert_eq!(life.apps.unwritten(), [name(A), name(B)]);
    }
}

#[test]
fn a_good_end_blames_nobody() {
    let mut life = running(0);
    life.event(ended(A, AppEnd::Code(0), false), now(30)).unwrap();
    life.event(ended(B, AppEnd::Failed { exit: 127, message: "no program".to_owned() }, false), now(31)).unwrap();
    let outcome = life.over(End::Code(127), now(32));
    assert_eq!(outcome, Outcome { exit: 127, messages: vec!["app `b`: no program".to_owned()] });
    assert_eq!(life.apps().status(&name(A)).unwrap().cause, None);
}

#[test]
fn a_client_that_goes_hangs_up_its_process() {
    let mut life = running(0);
    assert_eq!(life.request(3, Request::Exec(exec(A)), 3, now(30)), [Effect::Open(3, exec(A))]);
    assert_eq!(life.event(Event::ExecStarted { session: 3 }, now(31)).unwrap(), [Effect::Started(3)]);
    let hang_up = Effect::Send(Command::ExecSignal { session: 3, signal: libc::SIGHUP });
    assert_eq!(life.client_gone(3), [hang_up]);
    let end = AppEnd::Signal(1);
    let effects = life.event(Event::ExecEnded { session: 3, end: end.clone() }, now(32)).unwrap();
    assert_eq!(effects, [Effect::Exited(3, end)]);
    assert_eq!(life.client_gone(3), [], "nothing is left of it");
    assert_eq!(life.event(Event::ExecStarted { session: 9 }, now(33)).unwrap(), [], "nobody asked for it");
}

#[test]
fn a_restart_is_counted_when_it_happens() {
    let mut life = running(0);
    let status = |life: &Life| life.apps().status(&name(A)).unwrap().clone();
    life.event(ended(A, AppEnd::Code(3), true), now(30)).unwrap();
    assert_eq!((status(&life).end, status(&life).restarts), (Some(AppEnd::Code(3)), 0));
    life.event(started(A), now(40)).unwrap();
    assert_eq!((status(&life).end, status(&life).restarts), (None, 1));
    assert_eq!(status(&life).started_unix_nanos, Some(0), "of the first start");
}

#[test]
fn an_exec_waits_for_its_app() {
    let mut life = Life::new(&pod(0), Some(1000), now(0));
    for client in [1, 2, 3, 4] {
        let app = if client == 4 { B } else { A };
        assert_eq!(life.request(client, Request::Exec(exec(app)), 3, now(1)), []);
    }
    // One is interrupted, one is killed.
    assert_eq!(life.request(2, Request::Signal { signal: 2 }, 0, now(2)), [Effect::Exited(2, AppEnd::Signal(2))]);
    assert_eq!(life.client_gone(3), []);
    assert_eq!(life.event(started(A), now(3)).unwrap(), [Effect::Open(1, exec(A))]);
    let failed = AppEnd::Failed { exit: 127, message: String::new() };
    let refusal = "the app `b` is not running";
    assert_eq!(life.event(ended(B, failed, false), now(4)).unwrap(), refused(4, refusal));
    assert_eq!(life.request(5, Request::Exec(exec(B)), 3, now(5)), refused(5, refusal));
    // An app that is started again is waited for, too.
    life.event(ended(A, AppEnd::Code(1), true), now(6)).unwrap();
    assert_eq!(life.request(6, Request::Exec(exec(A)), 3, now(7)), []);
    assert_eq!(life.event(started(A), now(8)).unwrap(), [Effect::Open(6, exec(A))]);
}

#[test]
fn the_end_of_the_pod_ends_every_session() {
    let mut life = Life::new(&pod(0), None, now(0));
    life.event(started(A), now(1)).unwrap();
    life.request(1, Request::Exec(exec(A)), 3, now(2));
    life.request(2, Request::Exec(exec(B)), 3, now(2));
    let mut effects = vec![Effect::Exited(1, AppEnd::Signal(9))];
    effects.extend(refused(2, "the pod ended before the app ran"));
    assert_eq!(life.close_sessions(), effects);
    assert_eq!(life.close_sessions(), []);
}

#[test]
fn what_a_client_may_ask_for() {
    let mut life = running(0);
    let tty = Exec { tty: Some((24, 80)), ..exec(A) };
    for (request, fds, effects) in [
        (Request::Signal { signal: 1 }, 0, refused(1, "this connection has no session")),
        (Request::Resize { rows: 1, columns: 1 }, 0, refused(1, "this connection has no session")),
        (Request::Exec(exec("c")), 3, refused(1, "the pod has no app `c`")),
        (Request::Exec(exec(A)), 2, refused(1, "the request carries 2 descriptors instead of 3")),
        (Request::Exec(tty.clone()), 3, refused(1, "the request carries 3 descriptors instead of 0")),
    ] {
        assert_eq!(life.request(1, request, fds, now(30)), effects);
    }
    let effects = life.request(1, Request::Status, 0, now(30));
    assert!(matches!(&effects[..], [Effect::Reply(1, Reply::Status { ready: true, .. }), Effect::Close(1)]));
    assert_eq!(life.request(1, Request::Exec(tty.clone()), 0, now(30)), [Effect::Open(1, tty)]);
    let resize = Request::Resize { rows: 5, columns: 6 };
    assert_eq!(life.request(1, resize, 0, now(31)), [Effect::Resize(1, 5, 6)]);
    let message = "this connection has a session already".to_owned();
    assert_eq!(life.request(1, Request::Status, 0, now(31)), [Effect::Reply(1, Reply::Refused { message })]);
}

#[test]
fn what_a_pod_may_not_report_is_an_error() {
    for event in [started("c"), ended("c", AppEnd::Code(0), false), Event::Ready { app: name("c") }] {
        assert!(running(0).event(event, now(30)).unwrap_err().contains("which the pod has not"));
    }
    for event in [Event::Booted, Event::PodEnded { exit: 0 }] {
        assert!(running(0).event(event.clone(), now(30)).unwrap_err().contains("guest"));
        assert_eq!(Life::new(&pod(0), Some(1000), now(0)).event(event, now(30)).unwrap(), []);
    }
}

#[test]
fn no_report_makes_a_record_each() {
    let mut life = Life::new(&pod(0), None, now(0));
    let mut records = 0;
    // A hostile stage2 reports a start and an end a thousand times within one second.
    for millis in 0..1000 {
        life.event(started(A), now(millis)).unwrap();
        life.event(ended(A, AppEnd::Code(0), true), now(millis)).unwrap();
        records += life.due(now(millis)).len();
    }
    assert_eq!(records, 50);
    // A short life is one record, at its end.
    let mut life = Life::new(&pod(0), None, now(0));
    life.event(started(A), now(0)).unwrap();
    assert_eq!(life.due(now(1)), []);
    life.event(ended(A, AppEnd::Code(0), false), now(2)).unwrap();
    assert_eq!(life.due(now(2)), [Effect::Record(name(A))]);
    assert_eq!((life.next(), life.due(now(100))), (None, vec![]));
}

#[test]
fn a_guest_boots_in_time_and_ends_when_its_output_is_out() {
    let guest = || Life::new(&pod(0), Some(1000), now(0));
    let mut late = guest();
    // A stop does not lengthen the boot, nor the first word the stop.
    late.signal(15, now(10));
    assert_eq!(late.next(), Some(1000));
    assert_eq!(late.due(now(1000)), [Effect::Kill]);
    let outcome = late.over(End::Lost("killed".to_owned()), now(1001));
    assert_eq!(outcome.exit, 125);
    assert!(outcome.messages[0].starts_with("the guest did not start in time\nhint: "), "{outcome:?}");

    let mut life = guest();
    life.event(Event::Booted, now(500)).unwrap();
    assert_eq!(life.next(), None);
    life.event(started(A), now(510)).unwrap();
    life.event(Event::PodEnded { exit: 3 }, now(600)).unwrap();
    assert_eq!((life.guest_over(true, now(600)), life.guest_over(false, now(600))), (Some(3), None));
    assert_eq!(life.guest_over(false, now(600 + DRAIN_MILLIS_MAX)), Some(3));
    assert_eq!(life.event(started("c"), now(601)).unwrap(), [], "the pod is over");

    // A stopped guest is not over before its output is gone, which nobody may take.
    let mut life = guest();
    for app in [A, B] {
        life.event(started(app), now(1)).unwrap();
        life.event(ended(app, AppEnd::Signal(15), false), now(50)).unwrap();
    }
    assert!(!life.due(now(10_000)).contains(&Effect::DropOutput), "it was not stopped");
    let mut life = guest();
    life.event(Event::Booted, now(1)).unwrap();
    life.signal(15, now(2));
    for app in [A, B] {
        life.event(started(app), now(3)).unwrap();
        life.event(ended(app, AppEnd::Signal(15), false), now(50)).unwrap();
    }
    assert_eq!(life.due(now(50 + DRAIN_MILLIS_MAX)).last(), Some(&Effect::DropOutput));
}
