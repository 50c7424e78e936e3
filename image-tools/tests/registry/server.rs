//! The real `docker-registry` on a loopback port, with TLS by a test CA and a login.

use super::certificates::{certificates, run};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "se cret:1";

/// A running registry; it ends with the value.
pub(crate) struct Server {
    process: Child,
    pub(crate) host: String,
    pub(crate) directory: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // It may have ended by itself.
        let _ = self.process.wait();
    }
}

/// Starts a registry in `directory` that takes one login, or what `auth` says of it; or says what is missing.
pub(crate) fn start(directory: &Path, auth: Option<&str>) -> Option<Server> {
    for tool in ["docker-registry", "openssl", "htpasswd", "skopeo"] {
        if !Path::new("/usr/bin").join(tool).exists() {
            println!("skip: {tool} is not installed");
            assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
            return None;
        }
    }
    if !rustix::process::geteuid().is_root() {
        println!("skip: images are unpacked by root only");
        assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
    certificates(directory);
    let hashed = run(Command::new("htpasswd").args(["-Bbn", USER, PASSWORD]));
    fs::write(directory.join("htpasswd"), hashed).expect("htpasswd");
    let path = |name: &str| directory.join(name).display().to_string();
    let passwords = format!("{{htpasswd: {{realm: test, path: {}}}}}", path("htpasswd"));
    let auth = auth.unwrap_or(&passwords);
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http:\n  addr: 127.0.0.1:{port}\n  tls: {{certificate: {}, key: {}}}\n\
         auth: {auth}\n",
        path("storage"),
        path("server.crt"),
        path("server.key"),
    );
    fs::write(directory.join("config.yml"), config).expect("config");
    let process = Command::new("docker-registry")
        .arg("serve")
        .arg(directory.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry");
    let server = Server { process, host: format!("localhost:{port}"), directory: directory.to_owned() };
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "docker-registry does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

/// skopeo with the test's CA and login on both sides.
pub(crate) fn skopeo(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").arg(arguments[0]);
    let certificates = server.directory.join("certs.d").display().to_string();
    let login = format!("{USER}:{PASSWORD}");
    let sides: &[&str] = if arguments[0] == "copy" { &["src-", "dest-"] } else { &[""] };
    for side in sides {
        command.arg(format!("--{side}cert-dir={certificates}")).arg(format!("--{side}creds={login}"));
    }
    command.args(&arguments[1..]);
    command
}
