//! Pods in a network namespace that somebody else made: what is in it is in the pod, on every stage1.

use std::net::SocketAddr;
use tests::network::Network;
use tests::{Test, stage_test};

/// The pod's end of the cable as it was before the pod, and must be after it.
fn assert_as_before(network: &Network, before: &str) {
    assert_eq!(state(network), before);
    assert_eq!(network.show("/usr/sbin/nft", "list ruleset"), "");
}

fn state(network: &Network) -> String {
    let words = ["link", "address", "route", "-6 route", "neighbour show nud permanent"];
    let text = words.map(|words| network.show("/sbin/ip", words)).concat();
    // The kernel hears of a carrier some time after both ends are up.
    [" linkdown", "NO-CARRIER,", ",LOWER_UP", " state UP", " state DOWN"]
        .iter()
        .fold(text, |text, word| text.replace(word, ""))
}

stage_test!(a_joined_namespace_is_in_the_pod_as_it_was, needs[JoinedNetwork], |t| {
    let network = Network::usual();
    network.configure(&[
        "address add 10.9.7.7/32 dev eth0 scope link",
        "route add 10.20.0.0/16 via 10.9.0.9 metric 77 src 10.9.0.2",
        "route add 10.30.0.0/16 via 192.0.2.1 dev eth0 onlink",
        "route add blackhole 10.40.0.0/16",
        "-6 route add fd00:20::/64 via fe80::1 dev eth0",
        "neighbour add 10.9.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
    ]);
    let before = state(&network);
    let pod = t.pod().net(&network.flag()).app("a", "net-report").run();
    let report = pod.assert_ok().json();
    let card = &report["interfaces"]["eth0"];
    assert_eq!(card["address"], "02:11:22:33:44:55", "{report}");
    assert_eq!(card["mtu"], "1400", "{report}");
    assert_eq!(card["up"], true, "{report}");
    let ips = card["ips"].to_string();
    for ip in ["10.9.0.2/24", "10.9.7.7/32", "fd00:9::2/64", "fe80::11:22ff:fe33:4455/64"] {
        assert!(ips.contains(&format!("\"{ip}\"")), "{ip} of {ips}");
    }
    assert_eq!(report["interfaces"]["lo"]["up"], true, "{report}");
    assert_eq!(report["interfaces"].as_object().map(serde_json::Map::len), Some(2), "{report}");
    let routes = report["routes"].to_string();
    for route in [
        "default via 10.9.0.1 dev eth0 metric 0",
        "10.9.0.0/24 via 0.0.0.0 dev eth0 metric 0",
        "10.20.0.0/16 via 10.9.0.9 dev eth0 metric 77",
        "10.30.0.0/16 via 192.0.2.1 dev eth0 metric 0",
        "10.40.0.0/16 via 0.0.0.0 dev * metric 0",
        "default via fd00:9::1 dev eth0 metric 1024",
        "fd00:20::/64 via fe80::1 dev eth0 metric 1024",
        "fd00:9::/64 via :: dev eth0 metric 256",
    ] {
        assert!(routes.contains(&format!("\"{route}\"")), "{route} of {routes}");
    }
    assert!(report["neighbours"].to_string().contains("10.9.0.9 02:00:00:00:00:09"), "{report}");
    assert_as_before(&network, &before);
});

stage_test!(apps_reach_others_and_are_reached, needs[JoinedNetwork], |t| {
    let network = Network::usual();
    let before = state(&network);
    for address in ["10.9.0.1", "fd00:9::1"] {
        network.serve(address.parse().unwrap(), 7000);
    }
    let words = "net-talk tcp 10.9.0.1:7000 hello then net-talk tcp [fd00:9::1]:7000 hello6 \
        then net-talk udp 10.9.0.1:7000 datagram then net-talk udp [fd00:9::1]:7000 datagram6 \
        then net-echo 0.0.0.0:7001 then net-echo [::]:7002";
    let mut pod = t.pod().net(&network.flag()).app("a", words).start();
    for (address, text) in [("10.9.0.2:7001", "from outside"), ("[fd00:9::2]:7002", "again")] {
        let address: SocketAddr = address.parse().unwrap();
        assert_eq!(network.ask(address, text), text);
    }
    let outcome = pod.wait();
    outcome.assert_ok().assert_stdout(
        "10.9.0.2 sent hello\nfd00:9::2 sent hello6\n10.9.0.2 sent datagram\nfd00:9::2 sent datagram6\n\
         10.9.0.1 sent from outside\nfd00:9::1 sent again",
    );
    assert_as_before(&network, &before);
});

stage_test!(many_bytes_come_back_as_they_were, needs[JoinedNetwork], |t| {
    let network = Network::usual();
    network.serve("10.9.0.1".parse().unwrap(), 7000);
    // Much more than the rings of a card, in both directions at once.
    let pod = t.pod().net(&network.flag()).app("a", "net-bulk 10.9.0.1:7000 8").run();
    pod.assert_ok().assert_stdout("8 MiB came back");
});

stage_test!(several_interfaces_keep_their_names, needs[JoinedNetwork], |t| {
    // The guest's own names would be the other way round.
    let network = Network::new(
        &[
            "link add eth1 address 02:00:00:00:00:11 type veth peer name loose",
            "link set eth1 up",
            "address add 10.8.0.2/24 dev eth1",
        ],
        &["address add 10.9.0.1/24 dev peer"],
    );
    network.configure(&[
        "link set eth1 down",
        "link set eth1 name net7",
        "link set net7 up",
        "address add 10.9.0.2/24 dev eth0",
    ]);
    let report = t.pod().net(&network.flag()).app("a", "net-report").run();
    let report = report.assert_ok().json();
    for (name, address, ip) in
        [("eth0", "02:11:22:33:44:55", "10.9.0.2/24"), ("net7", "02:00:00:00:00:11", "10.8.0.2/24")]
    {
        assert_eq!(report["interfaces"][name]["address"], address, "{report}");
        assert!(report["interfaces"][name]["ips"].to_string().contains(ip), "{report}");
    }
});

stage_test!(a_namespace_outlives_pods_that_are_killed, needs[JoinedNetwork], |t| {
    let network = Network::usual();
    network.serve("10.9.0.1".parse().unwrap(), 7000);
    let before = state(&network);
    for _ in 0..2 {
        let mut pod = t
            .pod()
            .net(&network.flag())
            .app("a", "net-talk tcp 10.9.0.1:7000 hello then print there then process-sleep 100")
            .start();
        pod.await_line("there");
        pod.signal(rustix::process::Signal::KILL);
        pod.wait().assert_exit(128 + 9);
        await_as_before(&network, &before);
    }
});

/// The kernel takes a killed machine apart after its supervisor's parent has seen the death.
fn await_as_before(network: &Network, before: &str) {
    let begin = std::time::Instant::now();
    while begin.elapsed().as_secs() < 20 && state(network) != before {
        std::thread::yield_now();
    }
    assert_as_before(network, before);
}

stage_test!(a_prepared_pod_joins_the_namespace_that_it_is_told, needs[JoinedNetwork], |t| {
    let network = Network::usual();
    network.serve("10.9.0.1".parse().unwrap(), 7000);
    let words = ["--net=ns:/not/there/yet", t.probe(), "--", "net-talk", "tcp", "10.9.0.1:7000", "hello"];
    let uuid = prepare(t, &words);
    t.cli(["run-prepared", &uuid]).assert_refused(125, "--net=ns:");
    t.cli(["run-prepared", "--net=none", &uuid]).assert_refused(125, "--net=ns:");
    t.cli(["run-prepared", &format!("--net={}", network.flag()), &uuid])
        .assert_ok()
        .assert_stdout("10.9.0.2 sent hello");
});

fn prepare(t: &Test, words: &[&str]) -> String {
    let stage1 = format!("--stage1={}", t.stage1());
    t.cli(["prepare", &stage1].iter().chain(words)).assert_ok().stdout.trim().to_owned()
}

stage_test!(what_is_no_namespace_of_a_pod_is_refused, needs[JoinedNetwork], |t| {
    let refused = |net: &str, text: &str| {
        t.pod().net(net).app("a", "true").run().assert_refused(125, text);
        assert!(t.uuids().is_empty(), "`--net={net}` left a pod");
    };
    refused("ns:/no/such/file", "/no/such/file");
    refused("ns:", "open the network namespace ``");
    refused("ns:/etc/passwd", "`/etc/passwd` is not a network namespace");
    refused("ns:/dev/null", "`/dev/null` is not a network namespace");
    refused("ns:/proc/self/ns/mnt", "is not a network namespace");
    refused("ns:/proc/self/ns/net", "host's own network namespace");
    let network = Network::usual();
    let pod = t.pod().net(&network.flag()).flag("--private-users").app("a", "true").run();
    pod.assert_refused(125, "--private-users");
});

/// What a microVM cannot show of a network is refused by name.
#[cfg(feature = "kvm")]
#[test]
fn what_a_machine_cannot_join_is_refused() {
    tests::on_stage("kvm", "what_a_machine_cannot_join", |t| {
        let refused = |network: &Network, text: &str| {
            let before = state(network);
            t.pod().net(&network.flag()).app("a", "true").run().assert_refused(125, text);
            assert_as_before(network, &before);
        };
        let network = Network::usual();
        network.configure(&["tuntap add dev tun7 mode tun", "link set tun7 up"]);
        refused(&network, "interface `tun7` is not Ethernet");
        let network = Network::usual();
        network.configure(&["route add 10.50.0.0/16 nexthop via 10.9.0.8 nexthop via 10.9.0.9"]);
        refused(&network, "the route to 10.50.0.0/16 has several routers");
        let network = Network::usual();
        for number in 1..=4 {
            network.configure(&[&format!("tuntap add dev tap{number} mode tap"), &format!("link set tap{number} up")]);
        }
        refused(&network, "5 interfaces");
    });
}

/// Two machines cannot have one interface; the second is told, and the first goes on.
#[cfg(feature = "kvm")]
#[test]
fn a_namespace_serves_one_machine() {
    tests::on_stage("kvm", "a_namespace_serves_one_machine", |t| {
        let network = Network::usual();
        network.serve("10.9.0.1".parse().unwrap(), 7000);
        let words = "net-echo 10.9.0.2:7001 then net-talk tcp 10.9.0.1:7000 still";
        let mut first = t.pod().net(&network.flag()).app("a", words).start();
        let second = t.pod().net(&network.flag()).app("a", "true").run();
        second.assert_refused(125, "another microVM has this network namespace");
        assert_eq!(network.ask("10.9.0.2:7001".parse().unwrap(), "go on"), "go on");
        first.wait().assert_ok().assert_stdout("10.9.0.1 sent go on\n10.9.0.2 sent still");
    });
}
