//! Interactive pods: a terminal of the app's own, joined to the caller's.

use tests::{Terminal, stage_test};

stage_test!(an_interactive_app_has_a_terminal_of_its_own, |t| {
    let (command, _) =
        t.pod().flag("--interactive").app("a", "stream-terminal then stream-size then exit 6").spawnable();
    let mut terminal = Terminal::run(&command, 33, 77);
    let before = format!("{:?}", terminal.modes());
    let (code, shown) = terminal.wait();
    assert_eq!(code, 6, "{shown}");
    assert!(shown.contains("terminal [true, true, true]") && shown.contains("size 33x77"), "{shown}");
    assert_eq!(format!("{:?}", terminal.modes()), before, "the caller's terminal was left changed");
});

stage_test!(a_new_size_reaches_the_app, |t| {
    let words = "process-trap 28 then print ready then process-await-signal 28 then stream-size";
    let (command, _) = t.pod().flag("--interactive").app("a", words).spawnable();
    let mut terminal = Terminal::run(&command, 24, 80);
    terminal.await_text("ready");
    terminal.resize(40, 100);
    let (code, shown) = terminal.wait();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("signal 28") && shown.contains("size 40x100"), "{shown}");
});

stage_test!(what_is_typed_reaches_the_app, |t| {
    let (command, _) = t.pod().flag("--interactive").app("a", "print ready then stream-line then exit 3").spawnable();
    let mut terminal = Terminal::run(&command, 24, 80);
    terminal.await_text("ready");
    terminal.type_in("words\r");
    let (code, shown) = terminal.wait();
    assert_eq!(code, 3, "{shown}");
    assert!(shown.contains("line words"), "{shown}");
});

stage_test!(control_c_interrupts_the_app_and_not_the_pod, |t| {
    let words = "process-trap 2 then print ready then process-await-signal 2 then exit 4";
    let (command, _) = t.pod().flag("--interactive").app("a", words).spawnable();
    let mut terminal = Terminal::run(&command, 24, 80);
    terminal.await_text("ready");
    terminal.type_in("\u{3}");
    let (code, shown) = terminal.wait();
    assert_eq!(code, 4, "{shown}");
    assert!(shown.contains("signal 2"), "{shown}");
});

stage_test!(exec_on_a_terminal_works_alike, |t| {
    let pod = t.pod().app("a", "process-sleep 60").start();
    let words = [
        "exec",
        "--interactive",
        &pod.uuid,
        "--",
        "/probe",
        "stream-terminal",
        "then",
        "stream-size",
        "then",
        "exit",
        "8",
    ];
    let mut terminal = Terminal::run(&t.pod_command(words), 50, 120);
    let (code, shown) = terminal.wait();
    assert_eq!(code, 8, "{shown}");
    assert!(shown.contains("terminal [true, true, true]") && shown.contains("size 50x120"), "{shown}");
});

stage_test!(several_apps_cannot_share_a_terminal, |t| {
    let pod = t.pod().flag("--interactive").app("a", "true").app("b", "true").run();
    assert!([2, 125].contains(&pod.code), "{}", pod.outcome);
    pod.assert_stderr_has("interactive");
});
