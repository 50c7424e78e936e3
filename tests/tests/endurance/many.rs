//! Hundreds of pods at once, and a thousand listed; as machines fewer, because each has a kernel and memory of its own.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::stage_test;

/// Pods at once, and pods listed.
fn counts(stage1: &str) -> (usize, usize) {
    if stage1 == "kvm" { (8, 50) } else { (500, 1000) }
}

stage_test!(many_pods_start_at_once_and_more_are_listed, |t| {
    let _turn = crate::turn();
    let (together, listed) = counts(t.stage1());
    t.probe();
    let begin = Instant::now();
    let mut children: Vec<Child> = Vec::new();
    let errors = t.path("errors");
    for _ in 0..together {
        let (mut command, _) = t.pod().app("a", "true").spawnable();
        let stderr = File::options().create(true).append(true).open(&errors).unwrap();
        children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
    }
    let codes: Vec<Option<i32>> = children.iter_mut().map(|child| child.wait().unwrap().code()).collect();
    let failed = codes.iter().filter(|code| **code != Some(0)).count();
    assert_eq!(failed, 0, "{failed} of {together} failed: {}", std::fs::read_to_string(&errors).unwrap());
    println!("{together} pods at once: {:?}", begin.elapsed());
    while t.uuids().len() < listed {
        t.pod().app("a", "true").prepare();
    }
    let begin = Instant::now();
    let pods = t.cli(["list", "--format=json"]).assert_exit(0).json();
    let time = begin.elapsed();
    println!("{listed} pods listed: {time:?}");
    let states: Vec<&str> = pods.as_array().unwrap().iter().filter_map(|pod| pod["state"].as_str()).collect();
    assert_eq!(states.len(), listed);
    assert_eq!(states.iter().filter(|state| **state == "exited").count(), together);
    assert_eq!(states.iter().filter(|state| **state == "prepared").count(), listed - together);
    // The promise is for a release build; this one only must not be out of all proportion.
    assert!(time < Duration::from_secs(2), "listing {listed} pods took {time:?}");
});

/// Rounds, and pods at once in each.
fn firsts(stage1: &str) -> (usize, usize) {
    if stage1 == "kvm" { (2, 4) } else { (30, 8) }
}

// Who finds no `pods` directory makes it, and so do all others that start at that moment.
stage_test!(the_first_pods_of_a_data_directory_come_at_once, |t| {
    let _turn = crate::turn();
    let (rounds, together) = firsts(t.stage1());
    t.probe();
    for round in 0..rounds {
        let start = || {
            let (mut command, _) = t.pod().app("a", "true").spawnable();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<Child> = (0..together).map(|_| start()).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        }
        t.cli(["gc", "--grace-period=0s"]).assert_exit(0);
        std::fs::remove_dir_all(t.data().join("pods")).unwrap();
    }
});
