//! Our key and signature files against the real minisign, in both directions.

use std::path::Path;
use std::process::Command;

use image_tools::key::{PublicKey, SecretKey};
use image_tools::minisign::Minisig;
use image_tools::signing;

fn minisign(directory: &Path, arguments: &[&str]) -> Option<bool> {
    let output = match Command::new("minisign").args(arguments).current_dir(directory).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skip: minisign: {error}");
            assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
            return None;
        }
    };
    if !output.status.success() {
        println!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Some(output.status.success())
}

#[test]
fn minisign_accepts_our_signatures_and_refuses_changed_ones() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    let public = signing::keygen(&path.join("ours"), None).expect("keygen");
    let key = signing::read_secret(&path.join("ours.key"), || unreachable!("not encrypted")).expect("key");
    std::fs::write(path.join("file"), "message").expect("file");
    let minisig = Minisig::sign(&key, b"message", "a trusted comment").expect("sign");
    std::fs::write(path.join("file.minisig"), minisig.to_text()).expect("file");
    let line = public.to_line();
    let verify = ["-V", "-m", "file", "-P", line.as_str()];
    let Some(accepted) = minisign(path, &verify) else { return };
    assert!(accepted);
    std::fs::write(path.join("file"), "massage").expect("file");
    assert_eq!(minisign(path, &verify), Some(false));
}

#[test]
fn minisign_signs_with_our_secret_keys() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    let public = signing::keygen(&path.join("ours"), None).expect("keygen");
    std::fs::write(path.join("file"), "message").expect("file");
    let Some(signed) = minisign(path, &["-S", "-m", "file", "-s", "ours.key", "-t", "by minisign"]) else { return };
    assert!(signed);
    let text = std::fs::read_to_string(path.join("file.minisig")).expect("signature");
    let minisig = Minisig::parse(&text).expect("minisign's own form");
    assert_eq!(minisig.verify(&public, b"message"), Ok(()));
    assert_eq!(minisig.trusted_comment(), "by minisign");
    assert!(minisig.verify(&public, b"massage").is_err());
}

#[test]
fn we_read_the_keys_that_minisign_makes() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    let Some(made) = minisign(path, &["-G", "-W", "-p", "theirs.pub", "-s", "theirs.key"]) else { return };
    assert!(made);
    let public = PublicKey::parse(&std::fs::read_to_string(path.join("theirs.pub")).expect("file")).expect("two lines");
    let text = std::fs::read_to_string(path.join("theirs.key")).expect("file");
    let secret = SecretKey::parse(&text, None).expect("unencrypted");
    assert_eq!(secret.public(), public);
    std::fs::write(path.join("file"), "message").expect("file");
    let minisig = Minisig::sign(&secret, b"message", "").expect("sign");
    std::fs::write(path.join("file.minisig"), minisig.to_text()).expect("file");
    assert_eq!(minisign(path, &["-V", "-m", "file", "-p", "theirs.pub"]), Some(true));
}
