//! redis, nginx and postgresql from Debian's packages: own users, host volumes and `--net=host`, real clients, an end on
//! SIGTERM in time, and data that outlives the pod.

use crate::conversion::debian;
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::{Outcome, Running, Test, stage_test};

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(10);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs a program of the image as a client on the host's network.
fn client(t: &Test, image: &str, user: &str, words: &[&str]) -> Outcome {
    let mut line = vec!["run".to_owned(), format!("--stage1={}", t.stage1()), "--net=host".into(), image.into()];
    line.extend([format!("--user={user}"), format!("--exec={}", words[0]), "--".into()]);
    line.extend(words[1..].iter().map(|word| (*word).to_owned()));
    t.cli(line)
}

/// Asks again until the server answers.
fn until_answered(mut ask: impl FnMut() -> Outcome, expected: &str) {
    let begin = Instant::now();
    loop {
        let outcome = ask();
        if outcome.code == 0 && outcome.stdout.contains(expected) {
            return;
        }
        assert!(begin.elapsed() < START_MAX, "no answer: {outcome}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn stops_in_time(pod: &mut Running<'_>, code: i32) {
    let begin = Instant::now();
    pod.stop().assert_exit(code);
    assert!(begin.elapsed() < STOP_MAX, "SIGTERM took {:?}", begin.elapsed());
}

/// A directory of the host that a user of the image owns.
fn owned(t: &Test, image: &str, name: &str, user: &str) -> PathBuf {
    let ids = client(t, image, user, &["/usr/bin/id", "-u"]);
    let uid: u32 = ids.assert_exit(0).stdout.trim().parse().unwrap();
    assert_ne!(uid, 0, "{user} is root");
    let path = t.path(name);
    fs::create_dir(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(uid), None).unwrap();
    path
}

fn server<'a>(t: &'a Test, image: &str, name: &str, flags: &str, volume: (&Path, &str), words: &str) -> Running<'a> {
    let pod = t.pod().net("host").app_of(image, name, words).with(flags);
    pod.with(&format!("-v={}:{}", volume.0.display(), volume.1)).start()
}

stage_test!(redis_keeps_its_data, needs[HostNetwork], |t| {
    let image = debian(t);
    let data = owned(t, image, "redis", "redis");
    let port = free_port().to_string();
    let words = format!("--port {port} --bind 127.0.0.1 --dir /data --appendonly yes --daemonize no");
    let start = || server(t, image, "redis", "--user=redis --exec=/usr/bin/redis-server", (&data, "/data"), &words);
    let ask = |words: &[&str]| client(t, image, "redis", &[&["/usr/bin/redis-cli", "-p", &port], words].concat());
    let mut pod = start();
    until_answered(|| ask(&["ping"]), "PONG");
    ask(&["set", "key", "kept"]).assert_exit(0).assert_stdout("OK");
    stops_in_time(&mut pod, 0);
    let mut pod = start();
    until_answered(|| ask(&["ping"]), "PONG");
    ask(&["get", "key"]).assert_exit(0).assert_stdout("kept");
    stops_in_time(&mut pod, 0);
});

stage_test!(postgresql_keeps_its_data, needs[HostNetwork], |t| {
    let image = debian(t);
    let data = owned(t, image, "postgres", "postgres");
    let directory = "/usr/lib/postgresql/15/bin";
    let initialise = t.pod().app_of(image, "initdb", "-D /data/db --auth=trust --no-sync");
    let initialise = initialise.with(&format!("--user=postgres --exec={directory}/initdb -v={}:/data", data.display()));
    initialise.run().assert_exit(0);
    let port = free_port().to_string();
    let words =
        format!("-D /data/db -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp -c fsync=off");
    let flags = format!("--user=postgres --exec={directory}/postgres");
    let start = || server(t, image, "postgres", &flags, (&data, "/data"), &words);
    let psql = format!("{directory}/psql");
    let ask = |query: &str| {
        let words = [&psql, "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-A", "-t", "-c", query];
        client(t, image, "postgres", &words)
    };
    let mut pod = start();
    until_answered(|| ask("select 40 + 2"), "42");
    ask("create table kept as select 'still here' as text").assert_exit(0);
    // SIGTERM is postgresql's patient way to stop; the tests' clients are gone by now.
    stops_in_time(&mut pod, 0);
    let mut pod = start();
    until_answered(|| ask("select text from kept"), "still here");
    stops_in_time(&mut pod, 0);
});

stage_test!(nginx_serves_with_workers_of_another_user, needs[HostNetwork], |t| {
    let image = debian(t);
    let site = t.path("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("index.html"), "served from a volume").unwrap();
    let port = free_port();
    let configuration = format!(
        "user www-data;\nworker_processes 2;\ndaemon off;\npid /run/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\n  access_log /site/access.log;\n  server {{ listen 127.0.0.1:{port}; root /site; }}\n}}\n"
    );
    fs::write(site.join("nginx.conf"), configuration).unwrap();
    let mut pod = server(t, image, "nginx", "--exec=/usr/sbin/nginx", (&site, "/site"), "-c /site/nginx.conf");
    let page = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    let begin = Instant::now();
    let text = loop {
        match page() {
            Some(text) if !text.is_empty() => break text,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
        assert!(begin.elapsed() < START_MAX, "nginx does not answer");
    };
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("served from a volume"), "{text}");
    let workers =
        pod.exec("nginx", &["/bin/sh", "-c", "grep -l www-data /etc/passwd; stat -c %U /proc/[0-9]* | sort | uniq -c"]);
    assert!(workers.assert_exit(0).stdout.contains("2 www-data"), "{workers}");
    // A HUP makes nginx read its configuration again and go on.
    pod.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(200));
    assert!(page().is_some_and(|text| text.contains("served from a volume")));
    stops_in_time(&mut pod, 0);
    assert!(fs::read_to_string(site.join("access.log")).unwrap().contains("GET /"), "the log is in the volume");
});
