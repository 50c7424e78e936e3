//! A fetch that is killed at any moment: nothing half-made is visible, the next attempt goes on, and no garbage stays.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use image_tools::obtain::{Images, Insecure, PullPolicy};
use image_tools::reference::Reference;
use image_tools::store::{InUse, Store};
use image_tools::trust::{Policy, TrustDirs};

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/server.rs"]
mod server;

const KILLS: u32 = 20;
const CONTENT_BYTES: usize = 300 << 20;
const INSECURE: Insecure = Insecure { image: true, tls: false, http: false };

fn images(root: &Path) -> Images {
    let store = Store::open(&root.join("store")).expect("store");
    Images { store, policy: Policy::load(&TrustDirs::new(&root.join("usr"), &root.join("etc"))) }
}

/// Empties the store.
fn forget(root: &Path) {
    let store = images(root).store;
    for image in store.list().expect("list") {
        store.remove(&image.id).expect("remove");
    }
    store.alone().expect("locked").collect(None, &InUse::default()).expect("collect");
}

/// Bytes that killed fetches left for the next one to go on with, or finished.
fn downloaded(root: &Path) -> u64 {
    let directories = ["tmp", "blobs/sha256"].map(|name| root.join("store").join(name));
    let entries = directories.into_iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// Text that stays large when it is compressed: it repeats itself far beyond gzip's window.
fn content() -> String {
    let mut block = vec![0_u8; 4 << 20];
    getrandom::fill(&mut block).expect("entropy");
    let block: String = block.iter().map(|byte| char::from(b' ' + byte % 64)).collect();
    block.repeat(CONTENT_BYTES / block.len())
}

/// At random from 0 to 1.
fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes).expect("entropy");
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// Runs in the process that is killed; without its variable it does nothing.
#[test]
fn child() {
    let Ok(text) = std::env::var("POD_TEST_FETCH") else { return };
    let (root, name) = text.split_once(' ').expect("two words");
    let reference = Reference::parse(name).expect("reference");
    images(Path::new(root)).obtain(&reference, PullPolicy::New, INSECURE).expect("fetched");
}

/// For root alone: a login that others can read is refused.
fn write_login(file: &Path, login: &str) {
    fs::write(file, login).expect("login");
    fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("login");
}

#[test]
fn twenty_killed_fetches_leave_nothing_but_progress() {
    let root = tempfile::tempdir().expect("temporary directory");
    let directory = root.path().join("registry");
    fs::create_dir(&directory).expect("directory");
    let Some(server) = server::start(&directory, None) else { return };
    let local = root.path().join("etc");
    for name in ["registries.d", "auth.d"] {
        fs::create_dir_all(local.join(name)).expect("directory");
    }
    let rule = format!(r#"{{"registry":"{}","ca":"{}"}}"#, server.host, directory.join("ca.crt").display());
    fs::write(local.join("registries.d/test.json"), rule).expect("rule");
    let (user, password) = (server::USER, server::PASSWORD);
    let login = format!(r#"{{"registries":["{}"],"user":"{user}","password":"{password}"}}"#, server.host);
    write_login(&local.join("auth.d/test.json"), &login);
    let content = content();
    let from = layout::layout(&root.path().join("layout"), &content);
    let name = format!("{}/big:1", server.host);
    let to = format!("docker://{name}");
    certificates::run(&mut server::skopeo(&server, &["copy", &format!("oci:{}", from.display()), &to]));

    let reference = Reference::parse(&name).expect("reference");
    let begin = Instant::now();
    images(root.path()).obtain(&reference, PullPolicy::New, INSECURE).expect("fetched undisturbed");
    let whole_time = begin.elapsed();
    forget(root.path());

    let (mut finished, mut before, mut most) = (0, 0, 0);
    for _ in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "child"])
            .env("POD_TEST_FETCH", format!("{} {name}", root.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        // Anywhere from the first request to the last rename.
        let end = Instant::now() + whole_time.mul_f64(fraction());
        while Instant::now() < end && child.try_wait().expect("wait").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("kill");
        finished += u32::from(child.wait().expect("wait").success());
        let whole = images(root.path()).store.list().expect("list");
        for image in &whole {
            assert!(image.layers.iter().all(|layer| layer.is_dir()), "a listed image is complete");
        }
        let now = downloaded(root.path());
        if whole.is_empty() {
            assert!(now >= before, "of {before} bytes, a killed fetch left {now}");
        } else {
            // Again from the beginning for those that were faster than the kill.
            forget(root.path());
        }
        before = downloaded(root.path());
        most = most.max(before);
    }
    println!("{finished} of {KILLS} fetches finished before their kill; {most} bytes were kept for the next one");
    assert!(most > 1 << 20, "no kill met a download");
    let obtained = images(root.path()).obtain(&reference, PullPolicy::New, INSECURE).expect("fetched at last");
    // Not by assert_eq, which would print it.
    assert!(fs::read_to_string(obtained.image.layers[1].join("app")).expect("file") == content, "other content");
    let store = images(root.path()).store;
    store.alone().expect("locked").collect(None, &InUse::default()).expect("collect");
    for name in ["tmp", "locks"] {
        let left: Vec<_> = fs::read_dir(root.path().join("store").join(name)).expect("directory").collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    assert_eq!(fs::read_dir(root.path().join("store/layers")).expect("directory").count(), 2);
}
