//! What an app finds around it: variables, working directory, names, name resolution, kernel parameters.

use tests::stage_test;

stage_test!(variables_come_from_the_narrowest_source, |t| {
    let file = t.path("env");
    std::fs::write(&file, "# comment\n\nV=file\nW=file\nX=file\n").unwrap();
    let pod = t
        .pod()
        .flag(&format!("--set-env-file={} --set-env=W=pod --set-env=FROM_IMAGE=pod", file.display()))
        .app(
            "a",
            "environment V then environment W then environment X then environment FROM_IMAGE then environment HOME",
        )
        .with("--environment=X=app")
        .run();
    pod.assert_exit(0).assert_stdout("file\npod\napp\npod\n/root");
});

stage_test!(the_callers_environment_stays_outside, |t| {
    let (mut command, _) = t.pod().app("a", "environment OUTSIDE then environment PATH").spawnable();
    let outcome = tests::Outcome::of(command.env("OUTSIDE", "leaks"));
    outcome.assert_exit(0).assert_stdout("unset\n/usr/bin:/bin:/");
    let (mut command, _) =
        t.pod().flag("--inherit-env").app("a", "environment OUTSIDE then environment FROM_IMAGE").spawnable();
    let outcome = tests::Outcome::of(command.env("OUTSIDE", "wanted").env("FROM_IMAGE", "no"));
    outcome.assert_exit(0).assert_stdout("wanted\nyes");
});

stage_test!(the_working_directory_is_made_if_missing, |t| {
    let report = t.pod().app("a", "report").with("--working-dir=/new/place").run();
    assert_eq!(report.assert_exit(0).json()["working_directory"], "/new/place");
    let report = t.pod().app("a", "report").with("--working-dir=/home/alice").run();
    assert_eq!(report.assert_exit(0).json()["working_directory"], "/home/alice");
});

stage_test!(the_host_name_is_the_pods, |t| {
    let report = t.pod().flag("--hostname=box").app("a", "report").run();
    assert_eq!(report.assert_exit(0).json()["hostname"], "box");
    let own = t.pod().app("a", "report").run();
    let hostname = own.assert_exit(0).json()["hostname"].as_str().unwrap().to_owned();
    assert!(hostname.starts_with("pod-"), "{hostname}");
});

stage_test!(hosts_and_resolv_conf_are_as_asked, |t| {
    let flags = "--dns=192.0.2.1 --dns-search=example.com --hosts-entry=192.0.2.7=db --hostname=box";
    let report = t.pod().flag(flags).app("a", "report").run();
    let report = report.assert_exit(0).json();
    let resolv = report["resolv_conf"].as_str().unwrap();
    assert!(resolv.contains("nameserver 192.0.2.1") && resolv.contains("search example.com"), "{resolv}");
    let hosts = report["hosts"].as_str().unwrap();
    assert!(hosts.contains("192.0.2.7") && hosts.contains("db") && hosts.contains("localhost"), "{hosts}");
    assert!(hosts.contains("box"), "{hosts}");
});

stage_test!(kernel_parameters_of_the_pod_are_set, |t| {
    let report = t
        .pod()
        .flag("--sysctl=net.ipv4.ip_unprivileged_port_start=80 --sysctl=kernel.msgmax=4321")
        .app("a", "report")
        .run();
    let report = report.assert_exit(0).json();
    assert_eq!(report["sysctls"]["net.ipv4.ip_unprivileged_port_start"], "80");
    assert_eq!(report["sysctls"]["kernel.msgmax"], "4321");
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_ne!(host.trim(), "4321");
});

stage_test!(kernel_parameters_of_the_host_are_refused, |t| {
    for parameter in ["kernel.core_pattern=x", "vm.swappiness=1", "fs.file-max=1"] {
        let pod = t.pod().flag(&format!("--sysctl={parameter}")).app("a", "true").run();
        assert!([2, 125].contains(&pod.code), "{}", pod.outcome);
        pod.assert_stderr_has(parameter.split('=').next().unwrap());
    }
});
