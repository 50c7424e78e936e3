//! Networks of pods in the built-in hypervisor, which needs the testbed's `/dev/kvm`.

use std::path::Path;
use tests::network::Network;
use tests::testbed::inside;
use tests::{Test, kernels};

#[test]
fn a_card_of_the_built_in_hypervisor() {
    inside::checks(
        "network::a_card_of_the_built_in_hypervisor",
        &[
            ("a_network_with_the_minimal_kernel", |t| network_with(t, Path::new(kernels::OWN))),
            ("a_network_with_debians_kernel", |t| {
                network_with(t, &kernels::debian().expect("linux-image-cloud-amd64 is installed"));
            }),
        ],
    );
}

fn network_with(t: &Test, kernel: &Path) {
    let network = Network::usual();
    for address in ["10.9.0.1", "fd00:9::1"] {
        network.serve(address.parse().unwrap(), 7000);
    }
    // A guest of a guest of a translator: few bytes are many.
    let words = "net-report then net-echo [::]:7001 then net-talk tcp [fd00:9::1]:7000 hello \
        then net-talk udp 10.9.0.1:7000 datagram then net-latency 10.9.0.1:7000 20 then net-bulk 10.9.0.1:7000 4";
    let kernel = format!("--hypervisor=builtin --kernel={}", kernel.display());
    let mut pod = t.pod().net(&network.flag()).flag(&kernel).app("a", words).start();
    let asked = network.ask("10.9.0.2:7001".parse().unwrap(), "from outside");
    assert_eq!(asked, "from outside");
    let outcome = pod.wait();
    let lines: Vec<&str> = outcome.assert_ok().stdout.lines().collect();
    let [report, echo, tcp, udp, latency, bulk] = lines.as_slice() else { panic!("{outcome}") };
    for part in ["02:11:22:33:44:55", "\"1400\"", "10.9.0.2/24", "default via fd00:9::1 dev eth0 metric 1024"] {
        assert!(report.contains(part), "`{part}` of {report}");
    }
    let words = ["fd00:9::2 sent hello", "10.9.0.2 sent datagram", "4 MiB came back", "10.9.0.1 sent from outside"];
    assert_eq!([*tcp, *udp, *bulk, *echo], words);
    println!("round trip: {latency}; {}", outcome.stderr.trim());
    assert_eq!(network.show("/usr/sbin/nft", "list ruleset"), "");
    assert!(!network.show("/sbin/ip", "link").contains("tap"));
}
