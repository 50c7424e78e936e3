//! An image found by its name on a web server that is no registry: a real TLS server with a file in `/.well-known`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image_tools::key::SecretKey;
use image_tools::name::ImageName;
use image_tools::obtain::{Images, Insecure, ObtainError, Obtained, PullPolicy};
use image_tools::oci::host_architecture;
use image_tools::reference::Reference;
use image_tools::store::Store;
use image_tools::trust::{self, AddOptions, Policy, Prefix, TrustDirs};

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/native.rs"]
mod native;

struct Site {
    root: tempfile::TempDir,
    process: Child,
    host: String,
    dirs: TrustDirs,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill(); // It may have ended by itself.
        let _ = self.process.wait();
    }
}

impl Site {
    /// `openssl s_server` serves the files of a directory.
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skip: images are unpacked by root only");
            assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
            return None;
        }
        let root = tempfile::tempdir().expect("temporary directory");
        let www = root.path().join("www");
        fs::create_dir_all(www.join(".well-known")).expect("directory");
        certificates::certificates(root.path());
        let port = TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port();
        let spawned = Command::new("openssl")
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-WWW", "-quiet"])
            .args(["-cert", "../server.crt", "-key", "../server.key"])
            .current_dir(&www)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = spawned else {
            println!("skip: openssl is not installed");
            assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
            return None;
        };
        let host = format!("localhost:{port}");
        let local = root.path().join("etc");
        fs::create_dir_all(local.join("registries.d")).expect("directory");
        let rule = format!(r#"{{"registry":"{host}","ca":"{}"}}"#, root.path().join("ca.crt").display());
        fs::write(local.join("registries.d/test.json"), rule).expect("rule");
        let dirs = TrustDirs::new(&root.path().join("usr"), &local);
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { root, process, host, dirs })
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.root.path().join("www").join(name), bytes).expect("file");
    }

    fn obtain(&self, text: &str) -> Result<Obtained, ObtainError> {
        let store = Store::open(&self.root.path().join("store")).expect("store");
        let images = Images { store, policy: Policy::load(&self.dirs) };
        images.obtain(&Reference::parse(text).expect("name"), PullPolicy::New, Insecure::default())
    }
}

#[test]
fn a_name_is_found_on_the_web_and_must_be_the_images_own() {
    let Some(site) = Site::start() else { return };
    let key = SecretKey::generate().expect("entropy");
    let (host, name) = (&site.host, format!("{}/app", site.host));
    let places = format!(
        r#"{{"version":1,"images":[{{"prefix":"{host}","url":"https://{host}/{{base}}-{{version}}-{{os}}-{{arch}}.{{ext}}"}}],"keys":[{{"prefix":"{host}","url":"https://{host}/key.pub"}}]}}"#
    );
    site.write("key.pub", format!("{}\n", key.public().to_line()).as_bytes());
    site.write(".well-known/pod-discovery.json", places.as_bytes());
    let (pod, sig) = native::image(site.root.path(), &key, &name, "found");
    let file = |base: &str, version: &str| format!("{base}-{version}-linux-{}.pod", host_architecture());
    // The same bytes under two other names: a server that swaps images.
    for file in [file("app", "1.0"), file("app", "2.0"), file("other", "1.0")] {
        site.write(&file, &pod);
        site.write(&format!("{file}.sig"), sig.as_bytes());
    }
    let error = site.obtain(&format!("{name}:1.0")).expect_err("no rule").to_string();
    assert!(error.contains("no trust rule"), "{error}");
    trust::add(&site.dirs, &Prefix::parse(host).expect("prefix"), &key.public().to_line(), &AddOptions::default())
        .expect("add");
    let obtained = site.obtain(&format!("{name}:1.0")).expect("found");
    assert_eq!(obtained.image.name.as_str(), name);
    assert_eq!(fs::read_to_string(obtained.image.layers[1].join("app")).expect("file"), "found");
    let store = Store::open(&site.root.path().join("store")).expect("store");
    let images = Images { store, policy: Policy::load(&site.dirs) };
    let prefix = ImageName::parse(&name).expect("name");
    let keys = images.discover_keys(&prefix, Insecure::default()).expect("keys");
    assert_eq!(keys, [(format!("https://{host}/key.pub"), format!("{}\n", key.public().to_line()))]);
    for wanted in [format!("{name}:2.0"), format!("{host}/other:1.0")] {
        let error = site.obtain(&wanted).expect_err("another image").to_string();
        assert!(error.contains("calls itself") && error.contains("was asked for"), "{error}");
    }
}
