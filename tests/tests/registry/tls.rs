//! Certificates that do not prove who a registry is: each is refused before anything is sent, with the reason.

use crate::certificates::{certificates, run};
use crate::registry_test;
use crate::world::{configure, login};
use serde_json::json;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A TLS server that ends with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended by itself.
        let _ = self.0.wait();
    }
}

/// Makes a certificate of the test's CA for `name` that is good for so many days.
fn certify(directory: &Path, file: &str, name: &str, days: &str) {
    fs::write(directory.join("names"), format!("subjectAltName=DNS:{name}\n")).unwrap();
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
    let more = ["-days", days, "-extfile", "names", "-out", file];
    run(Command::new("openssl").args(sign).args(more).current_dir(directory));
}

fn serve(directory: &Path, certificate: &str, log: &Path) -> (Server, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-key", "server.key", "-cert", certificate]);
    command.current_dir(directory).stdin(Stdio::piped()).stderr(Stdio::null());
    let server = Server(command.stdout(fs::File::create(log).unwrap()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "openssl does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    (server, format!("localhost:{port}"))
}

// podman CVE-2025-6032: a certificate that was not looked at. Nothing of a login may reach such a server.
registry_test!(cve_2025_6032_certificates_are_verified, |w| {
    let directory = w.t.path("tls");
    fs::create_dir(&directory).unwrap();
    certificates(&directory);
    certify(&directory, "expired.crt", "localhost", "-1");
    certify(&directory, "other.crt", "registry.example.com", "2");
    for (certificate, ca, reason) in [
        ("expired.crt", true, "it has expired"),
        ("other.crt", true, "it is for another host name"),
        ("server.crt", false, "no CA that this machine trusts has signed it"),
    ] {
        let log = w.t.path(certificate);
        let (server, host) = serve(&directory, certificate, &log);
        login(w.t, &host, crate::server::PASSWORD);
        if ca {
            configure(w.t, "tls", &json!({ "registry": host, "ca": directory.join("ca.crt") }));
        }
        let outcome = w.t.cli(["--insecure-options=image", "fetch", &format!("docker://{host}/app:1")]);
        outcome.assert_refused(125, &format!("the certificate of {host} is not accepted: {reason}"));
        drop(server);
        let heard = fs::read_to_string(&log).unwrap_or_default();
        assert!(!heard.contains("Authorization") && !heard.contains("/v2/"), "{certificate}: {heard}");
    }
});
