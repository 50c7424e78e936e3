//! A network for one pod: a network namespace with an interface, as a user or a plugin would make it, and a second one at the
//! other end of the cable, with a server. Both exist only as long as the threads and files of the test that made them.

use crate::outcome::Outcome;
use rustix::fs::{CWD, Mode, OFlags};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// How long an action at the other end may take; a microVM in software emulation may answer late.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The two namespaces.
pub struct Network {
    pod: OwnedFd,
    other: OwnedFd,
}

impl Network {
    /// Makes both namespaces, a cable between them (`eth0` and `peer`), and what the commands of `ip` for each end say.
    pub fn new(pod_commands: &[&str], other_commands: &[&str]) -> Self {
        let network = Self { pod: namespace(), other: namespace() };
        let other = network.other.as_raw_fd();
        let cable = format!(
            "link set lo up\nlink add eth0 address 02:11:22:33:44:55 type veth peer name peer netns /proc/{}/fd/{other}",
            std::process::id()
        );
        ip(&network.pod, &[&[cable.as_str()], pod_commands, &["link set eth0 up"]].concat());
        ip(&network.other, &[&["link set lo up"], other_commands, &["link set peer up"]].concat());
        network
    }

    /// An ordinary one: 10.9.0.2/24 and fd00:9::2/64 for the pod, .1 and ::1 for the other end, which is the router.
    pub fn usual() -> Self {
        // No address of the kernel's own, which would be tried out for a while.
        let pod = [
            "link set eth0 mtu 1400 addrgenmode none",
            "address add fe80::11:22ff:fe33:4455/64 dev eth0 nodad",
            "address add 10.9.0.2/24 broadcast + dev eth0",
            "address add fd00:9::2/64 dev eth0 nodad",
        ];
        let other =
            ["link set peer mtu 1400", "address add 10.9.0.1/24 dev peer", "address add fd00:9::1/64 dev peer nodad"];
        let network = Self::new(&pod, &other);
        network.configure(&["route add default via 10.9.0.1", "-6 route add default via fd00:9::1"]);
        network
    }

    /// Runs more commands of `ip` at the pod's end.
    pub fn configure(&self, commands: &[&str]) {
        ip(&self.pod, commands);
    }

    /// The value of `--net=`.
    pub fn flag(&self) -> String {
        format!("ns:/proc/{}/fd/{}", std::process::id(), self.pod.as_raw_fd())
    }

    /// The output of a program at the pod's end.
    pub fn show(&self, program: &str, words: &str) -> String {
        let (program, words) = (program.to_owned(), words.to_owned());
        let show = move || Outcome::of(Command::new(program).args(words.split_whitespace())).assert_ok().stdout.clone();
        within(&self.pod, show).join().expect("the program is there")
    }

    /// Connects from the other end, sends `text` and returns the answer, as soon as somebody listens there.
    pub fn ask(&self, address: SocketAddr, text: &str) -> String {
        let text = text.to_owned();
        let ask = move || {
            let begin = std::time::Instant::now();
            let mut stream = loop {
                match TcpStream::connect_timeout(&address, WAIT_MAX) {
                    Ok(stream) => break stream,
                    // A refusal comes over the network, so this does not spin.
                    Err(error) => assert!(begin.elapsed() < WAIT_MAX, "connect to {address}: {error}"),
                }
            };
            stream.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
            stream.write_all(text.as_bytes()).expect("send");
            stream.shutdown(std::net::Shutdown::Write).expect("end of what is sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("receive");
            answer
        };
        within(&self.other, ask).join().expect("an answer")
    }

    /// Serves at the other end, for as long as the test runs: one TCP and one UDP server on this port of this address, which say
    /// who asked before they send back what they got.
    pub fn serve(&self, address: IpAddr, port: u16) {
        let sockets = move || {
            (
                TcpListener::bind((address, port)).expect("listen"),
                UdpSocket::bind((address, port)).expect("a UDP socket"),
            )
        };
        let (listener, datagrams) = within(&self.other, sockets).join().expect("two sockets");
        // Sockets stay in their namespace whoever uses them. These threads end with the test's process.
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(thread::spawn(|| echo(stream)))));
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
                let answer = format!("{} sent {}", from.ip(), String::from_utf8_lossy(&buffer[..length]));
                let _ = datagrams.send_to(answer.as_bytes(), from); // Who asked may be gone.
            }
        });
    }
}

fn echo(mut stream: TcpStream) {
    let from = stream.peer_addr().map(|address| address.ip().to_string()).unwrap_or_default();
    let mut buffer = vec![0; 64 << 10];
    let mut sent = format!("{from} sent ").into_bytes();
    while stream.write_all(&sent).is_ok() {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(length) => sent = buffer[..length].to_vec(),
        }
    }
}

/// A new network namespace. The thread that made it is gone at once; the file keeps it.
fn namespace() -> OwnedFd {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("make a network namespace");
        rustix::fs::openat(CWD, "/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    thread::spawn(make).join().expect("a thread").expect("a network namespace has a file")
}

/// Runs `body` in a thread that is in this namespace.
fn within<T: Send + 'static>(namespace: &OwnedFd, body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let namespace = namespace.try_clone().expect("clone a namespace's file");
    thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("enter a network namespace");
        body()
    })
}

/// Runs commands of `ip` in a namespace.
fn ip(namespace: &OwnedFd, commands: &[&str]) {
    let commands: Vec<String> = commands.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    let run = move || {
        for command in commands {
            Outcome::of(Command::new("/sbin/ip").args(command.split_whitespace())).assert_ok();
        }
    };
    within(namespace, run).join().expect("ip is installed");
}
