//! What the namespaces stage looks like from the host while a pod runs: its processes, their mounts, fds and memory, and the
//! control socket. Run as root on the build machine; everything looked at belongs to pods that the tests started.

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::image::{Layer, Recipe};
use tests::{Running, Test, on_stage, probe_bytes, probe_layer};

/// PID 1 of the pod, as the host numbers it.
fn init_of(pod: &Running<'_>) -> u32 {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.pid())).unwrap();
    let mut children = children.split_whitespace();
    let init = children.next().expect("the supervisor has a child").parse().unwrap();
    assert_eq!(children.next(), None, "the supervisor has one child");
    init
}

fn links(pid: u32) -> Vec<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok()).collect()
}

#[test]
fn nothing_of_the_host_is_mounted_in_the_pod() {
    on_stage("namespaces", "ns_mounts", |t| {
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let pod = t.pod().app("a", "process-sleep 600").start();
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", init_of(&pod))).unwrap();
        for line in mounts.lines() {
            let target = line.split(' ').nth(4).unwrap();
            let ours = ["/", "/stage2", "/shm"].contains(&target) || target.starts_with("/apps/a/rootfs");
            assert!(ours, "{line}");
            assert!(line.contains(" - ") && !line.contains(" shared:"), "peers of the host: {line}");
        }
        let path = t.data().display().to_string();
        assert!(!mounts.contains(&path), "a path of the host shows in the pod: {mounts}");
        let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!host.contains(&path) || before.contains(&path), "a mount of the pod is on the host: {host}");
    });
}

// runc CVE-2019-5736, from the side that has every privilege: only the mount can refuse here, and it must.
#[test]
fn cve_2019_5736_stage2_runs_from_a_read_only_mount() {
    on_stage("namespaces", "ns_init_executable", |t| {
        let pod = t.pod().app("a", "process-sleep 600").start();
        let program = format!("/proc/{}/exe", init_of(&pod));
        let opened = rustix::fs::openat(CWD, &program, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        // A program that runs is busy; what counts is that it stays unwritable when it does not.
        assert!(matches!(opened, Err(Errno::ROFS | Errno::TXTBSY)), "{opened:?}");
        let file = rustix::fs::openat(CWD, &program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let flags = rustix::fs::fstatvfs(&file).unwrap().f_flag;
        assert!(flags.contains(StatVfsMountFlags::RDONLY), "{flags:?}");
    });
}

#[test]
fn stage2_holds_neither_the_lock_nor_a_directory_of_the_host() {
    on_stage("namespaces", "ns_fds", |t| {
        let pod = t.pod().app("a", "process-sleep 600").start();
        for link in links(init_of(&pod)) {
            let text = link.display().to_string();
            let anonymous = text.starts_with("pipe:") || text.starts_with("socket:") || text.starts_with("anon_inode:");
            let cgroup = text.ends_with("/cgroup.procs") || text.ends_with("/tasks");
            let known = text == "/dev/null" || text.ends_with("/pod.json") || text == "/";
            assert!(anonymous || cgroup || known, "PID 1 holds `{text}`");
        }
    });
}

#[test]
fn a_waiting_pod_takes_little_memory() {
    // The promise is about release builds, and the memory table of `cargo xtask bench` holds it; a debug build has
    // twice the code to keep in memory.
    const KIB_MAX: u64 = if cfg!(debug_assertions) { 3072 } else { 2048 };
    on_stage("namespaces", "ns_memory", |t| {
        let pod = t.pod().app("a", "process-sleep 600").start();
        let processes = [pod.pid(), init_of(&pod)];
        let begin = Instant::now();
        loop {
            let sum: u64 = processes.into_iter().map(pss_kib).sum();
            if sum <= KIB_MAX {
                println!("supervisor and PID 1: {sum} KiB");
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "supervisor and PID 1 take {sum} KiB");
            std::thread::sleep(Duration::from_millis(50)); // They give memory back after a second of quiet.
        }
    });
}

fn pss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// The probe in the lowest of `count` layers, and one file of its own in each of the others.
fn layered(count: usize) -> Recipe {
    let layers = (1..count).map(|number| Layer::default().file(&format!("layer-{number}"), 0o644, b"here"));
    let mut recipe = Recipe::new(std::iter::once(probe_layer(&probe_bytes())).chain(layers));
    recipe.entrypoint = vec!["/probe".into()];
    recipe
}

#[test]
fn an_image_may_have_a_hundred_layers() {
    on_stage("namespaces", "ns_layers", |t| {
        t.probe();
        let image = t.signed(&layered(100), "example.com/layered:1");
        let words =
            "file-read /layer-1 then file-read /layer-99 then file-write /layer-50 new then file-read /layer-50";
        let pod = t.pod().app_of(&image.to_string_lossy(), "a", words).run();
        pod.assert_exit(0).assert_stdout("here\nhere\nnew");
    });
}

/// A connection to the pod's control socket, by a path short enough for an address.
fn connect(t: &Test, pod: &Running<'_>) -> OwnedFd {
    let path = t.pod_directory(&pod.uuid).join(contract::dir::CONTROL);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    socket
}

fn ask(socket: &OwnedFd, request: &[u8]) -> String {
    rustix::net::send(socket, request, SendFlags::NOSIGNAL).unwrap();
    let mut reply = vec![0; contract::control::MESSAGE_BYTES_MAX];
    let (length, _) = rustix::net::recv(socket, &mut reply, RecvFlags::empty()).unwrap();
    String::from_utf8(reply[..length].to_vec()).unwrap()
}

#[test]
fn a_bad_client_harms_only_itself() {
    on_stage("namespaces", "ns_control", |t| {
        let pod = t.pod().app("a", "process-sleep 600").start();
        for (request, reply) in [
            (&b"no json"[..], "understand the request"),
            (br#"{"request":"signal","signal":9}"#, "has no session"),
            (br#"{"request":"stop","grace":1}"#, "understand the request"),
            (br#"{"request":"exec","app":"a","arguments":["/probe"]}"#, "0 descriptors instead of 3"),
            (br#"{"request":"exec","app":"b","arguments":["/probe"],"tty":[1,1]}"#, "no app `b`"),
        ] {
            let answer = ask(&connect(t, &pod), request);
            assert!(answer.contains("refused") && answer.contains(reply), "{answer}");
        }
        // More than the supervisor takes, none of them with anything to say.
        let silent: Vec<OwnedFd> = (0..64).map(|_| connect(t, &pod)).collect();
        assert!(ask(&connect(t, &pod), br#"{"request":"status"}"#).contains("64 control connections"));
        drop(silent);
        assert!(ask(&connect(t, &pod), br#"{"request":"status"}"#).contains(r#""ready":true"#));
    });
}
