//! SIGKILL of any process of the chain at any step: the list tells the truth, and gc leaves nothing behind.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::{Test, stage_test};

/// A machine takes a second to boot where it is emulated, so fewer of them die.
fn kills(stage1: &str) -> u32 {
    if stage1 == "kvm" { 40 } else { 200 }
}

/// The deaths of one round: then gc is run, so that it meets all sorts of remains at once.
const ROUND: u32 = 20;

/// xorshift, seeded by the clock and printed, so that a bad run can be repeated.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = std::env::var("POD_TESTS_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(now.as_nanos() as u64 | 1);
        println!("POD_TESTS_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A process and all that descend from it.
fn descendants(pid: u32, found: &mut Vec<u32>) {
    found.push(pid);
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in text.split_whitespace().filter_map(|word| word.parse().ok()) {
        descendants(child, found);
    }
}

/// Kills one process of the chain, if it still is one: held by a pidfd while its parentage is looked at again.
fn kill_one(child: &Child, random: &mut Random) -> Option<usize> {
    let mut chain = Vec::new();
    descendants(child.id(), &mut chain);
    let index = random.below(chain.len() as u64) as usize;
    let pid = Pid::from_raw(i32::try_from(chain[index]).ok()?)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let mut again = Vec::new();
    descendants(child.id(), &mut again);
    if !again.contains(&chain[index]) {
        return None;
    }
    pidfd_send_signal(&fd, Signal::KILL).ok()?;
    Some(index)
}

fn state(t: &Test, uuid: &str) -> String {
    let pods = t.cli(["list", "--format=json"]).assert_exit(0).json();
    let pods = pods.as_array().cloned().unwrap_or_default();
    let pod = pods.iter().find(|pod| pod.as_object().is_some_and(|pod| pod.values().any(|value| value == uuid)));
    pod.map_or_else(|| "absent".to_owned(), |pod| pod["state"].as_str().unwrap_or("?").to_owned())
}

/// The state, once it is no longer one of a living pod. PID 1 of the pod dies with the supervisor, but the kernel takes a
/// moment for all it has to take down, and as long as that holds the lock the pod does live.
fn settled(t: &Test, uuid: &str) -> String {
    let begin = Instant::now();
    loop {
        let state = state(t, uuid);
        if !["running", "preparing"].contains(&state.as_str()) || begin.elapsed() > Duration::from_secs(5) {
            return state;
        }
    }
}

/// How long an undisturbed pod takes from start to its apps' output, so that the deaths fall all over that time.
fn undisturbed(t: &Test) -> Duration {
    let begin = Instant::now();
    t.pod()
        .flag("--volume=v,kind=empty --mount=volume=v,target=/v")
        .app("a", "true")
        .app("b", "true")
        .run()
        .assert_exit(0);
    begin.elapsed()
}

stage_test!(random_kills_leave_nothing, |t| {
    let _turn = crate::turn();
    let mut random = Random::new();
    undisturbed(t);
    let life = undisturbed(t) * 3 / 2;
    let mut by_depth = [0; 8];
    for number in 0..kills(t.stage1()) {
        let pod = t.pod().flag("--volume=v,kind=empty --mount=volume=v,target=/v --memory=256M");
        let pod =
            pod.app("a", "file-await /v/never").app("b", "process-fork 2 then file-await /v/never").with("--pids=50");
        let (mut command, uuid_file) = pod.spawnable();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_nanos(random.below(life.as_nanos() as u64)));
        match kill_one(&child, &mut random) {
            Some(depth) => by_depth[depth.min(7)] += 1,
            None => child.kill().unwrap(), // It ended while we looked; the supervisor is killed instead.
        }
        // A pod whose app or PID 1 was killed ends by itself. One of `b`'s helpers may be the victim, which ends nothing.
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(3) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let uuid = fs::read_to_string(&uuid_file).unwrap_or_default().trim().to_owned();
        if !uuid.is_empty() {
            let state = settled(t, &uuid);
            let ended = ["exited", "aborted-prepare", "embryo", "absent"];
            assert!(ended.contains(&state.as_str()), "kill {number}: the dead pod {uuid} is `{state}`");
        }
        if number % ROUND == ROUND - 1 {
            let uuids = t.uuids();
            t.cli(["gc", "--grace-period=0s", "--expire-prepared=0s"]).assert_exit(0);
            assert_eq!(t.uuids(), Vec::<String>::new(), "gc left pods");
            let left = t.leftovers(&uuids);
            assert!(left.is_empty(), "after kill {number}: {left:#?}");
        }
    }
    println!("killed by depth in the chain: {by_depth:?}");
});

stage_test!(gc_itself_can_be_killed, |t| {
    let _turn = crate::turn();
    let mut random = Random::new();
    for _ in 0..10 {
        for _ in 0..3 {
            t.pod().app("a", "file-write /tmp/x y").run().assert_exit(0);
        }
        let mut command = t.pod_command(["gc", "--grace-period=0s"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(15_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        t.cli(["list"]).assert_exit(0);
    }
    // `finish` runs gc a last time, and looks for what is left.
});
