//! A CA of the test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A CA, a certificate for `localhost`, and a directory as skopeo and podman want it.
pub(crate) fn certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| run(Command::new("openssl").args(arguments).current_dir(directory));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    openssl(
        &[&["req", "-x509"], &curve[..], &["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA"]].concat(),
    );
    let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(&[&request[..], &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"]].concat());
    fs::write(directory.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("names");
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&sign[..], &["-days", "2", "-extfile", "names", "-out", "server.crt"]].concat());
    fs::create_dir(directory.join("certs.d")).expect("directory");
    fs::copy(directory.join("ca.crt"), directory.join("certs.d/ca.crt")).expect("copy");
}

/// Runs a program that must succeed, and returns what it prints.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
