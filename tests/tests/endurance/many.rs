//! Five hundred pods at once, and a thousand listed.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::stage_test;

const TOGETHER: usize = 500;
const LISTED: usize = 1000;

stage_test!(five_hundred_pods_start_at_once_and_a_thousand_are_listed, |t| {
    t.probe();
    let begin = Instant::now();
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..TOGETHER {
        let (mut command, _) = t.pod().app("a", "true").spawnable();
        children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }
    let codes: Vec<Option<i32>> = children.iter_mut().map(|child| child.wait().unwrap().code()).collect();
    let failed = codes.iter().filter(|code| **code != Some(0)).count();
    assert_eq!(failed, 0, "{failed} of {TOGETHER} failed: {codes:?}");
    println!("{TOGETHER} pods at once: {:?}", begin.elapsed());
    while t.uuids().len() < LISTED {
        t.pod().app("a", "true").prepare();
    }
    let begin = Instant::now();
    let pods = t.cli(["list", "--format=json"]).assert_exit(0).json();
    let time = begin.elapsed();
    println!("{LISTED} pods listed: {time:?}");
    let states: Vec<&str> = pods.as_array().unwrap().iter().filter_map(|pod| pod["state"].as_str()).collect();
    assert_eq!(states.len(), LISTED);
    assert_eq!(states.iter().filter(|state| **state == "exited").count(), TOGETHER);
    assert_eq!(states.iter().filter(|state| **state == "prepared").count(), LISTED - TOGETHER);
    // The promise is for a release build; this one only must not be out of all proportion.
    assert!(time < Duration::from_secs(2), "listing {LISTED} pods took {time:?}");
});
