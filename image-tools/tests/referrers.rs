//! Signatures by the referrers API, which Debian's registry does not have: a server of the test's own that serves what the
//! distribution specification (1.1, "Listing Referrers") says, and nothing under the fallback tag.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use image_tools::digest::Digest;
use image_tools::key::SecretKey;
use image_tools::obtain::{Images, Insecure, ObtainError, Obtained, PullPolicy};
use image_tools::oci::{self, host_architecture};
use image_tools::reference::{Reference, Source};
use image_tools::signature::Signature;
use image_tools::source::{Content, SourceImage};
use image_tools::store::Store;
use image_tools::trust::{self, AddOptions, Policy, Prefix, TrustDirs};

#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/native.rs"]
mod native;

const HTTP: Insecure = Insecure { image: false, tls: false, http: true };

/// Instead of a media type: the body is an address to which the client is sent.
const REDIRECT: &str = "redirect";

/// What the server has: paths below `/v2/app/`, each with its type.
#[derive(Default)]
struct Site {
    content: BTreeMap<String, (String, Vec<u8>)>,
    asked: Vec<String>,
}

fn serve(site: Arc<Mutex<Site>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let host = listener.local_addr().expect("address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
            let path = path.trim_start_matches("/v2/app/").to_owned();
            let mut site = site.lock().expect("no panic");
            site.asked.push(path.clone());
            let found = site.content.get(path.split('?').next().unwrap_or_default());
            let (status, kind, body) = match found {
                Some((kind, to)) if kind == REDIRECT => {
                    let to = String::from_utf8_lossy(to).into_owned();
                    let head = format!(
                        "HTTP/1.1 307 Elsewhere\r\nlocation: {to}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                    );
                    let _ = stream.write_all(head.as_bytes()); // The client may hang up.
                    continue;
                }
                Some((kind, body)) => ("200 OK", kind.as_str(), body.as_slice()),
                None => ("404 Not Found", "application/json", &b"{}"[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
            );
            let _ = stream.write_all(&[head.as_bytes(), body].concat()); // The client may hang up.
        }
    });
    host
}

impl Site {
    fn blob(&mut self, bytes: &[u8]) {
        let path = format!("blobs/{}", Digest::of(bytes));
        self.content.insert(path, ("application/octet-stream".to_owned(), bytes.to_vec()));
    }

    fn manifest(&mut self, bytes: &[u8]) {
        let path = format!("manifests/{}", Digest::of(bytes));
        self.content.insert(path, (oci::MANIFEST.to_owned(), bytes.to_vec()));
    }

    /// A list of what refers to `subject`, with entries that are no signatures of ours among them.
    fn list(&mut self, subject: &Digest, artifacts: &[(&str, &[u8])]) {
        let entry = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": oci::MANIFEST, "digest": Digest::of(bytes), "size": bytes.len(), "artifactType": kind });
        let mut manifests = vec![entry("application/vnd.example.sbom", b"not there")];
        manifests.extend(artifacts.iter().map(|(kind, bytes)| entry(kind, bytes)));
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": oci::INDEX, "manifests": manifests });
        let bytes = index.to_string().into_bytes();
        self.content.insert(format!("referrers/{subject}"), (oci::INDEX.to_owned(), bytes));
    }
}

#[test]
fn signatures_are_found_by_the_api() {
    if !rustix::process::geteuid().is_root() {
        println!("skip: images are unpacked by root only");
        assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
        return;
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let (key, stranger) = (SecretKey::generate().expect("entropy"), SecretKey::generate().expect("entropy"));
    let site = Arc::new(Mutex::new(Site::default()));
    let host = serve(Arc::clone(&site));
    let (pod, sig) = native::image(root.path(), &key, &format!("{host}/app"), "one");
    let file = root.path().join("one.pod");
    std::fs::write(&file, pod).expect("file");
    let opened = SourceImage::open(&Source::Pod(file), host_architecture()).expect("own file");
    let Content::Native { manifest, config } = &opened.content else { panic!("native") };
    let subject = Digest::of(manifest);
    let signatures = Signature::from_file(&sig).expect("own signature");
    let artifact = signatures[0].to_artifact(&subject, manifest.len() as u64).expect("ours");

    {
        let mut site = site.lock().expect("no panic");
        site.manifest(manifest);
        let tagged = (oci::MANIFEST.to_owned(), manifest.clone());
        site.content.insert("manifests/1.0".to_owned(), tagged);
        site.blob(config);
        for layer in &opened.layers {
            site.blob(&layer.extent.bytes(1 << 20).expect("small"));
        }
        for (_, bytes) in &artifact.blobs {
            site.blob(bytes);
        }
        site.manifest(&artifact.manifest);
    }
    let dirs = TrustDirs::new(&root.path().join("usr"), &root.path().join("etc"));
    let obtain = || -> Result<Obtained, ObtainError> {
        let images =
            Images { store: Store::open(&root.path().join("store")).expect("store"), policy: Policy::load(&dirs) };
        let reference = Reference::parse(&format!("{host}/app:1.0")).expect("reference");
        images.obtain(&reference, PullPolicy::Update, HTTP)
    };
    let trusted = |key: &SecretKey| {
        let prefix = Prefix::parse(&host).expect("prefix");
        trust::add(&dirs, &prefix, &key.public().to_line(), &AddOptions::default()).expect("add");
    };
    trusted(&stranger);
    // No list, an empty one, a list that is none, and one of something that is not there.
    assert!(obtain().expect_err("no signature").to_string().contains("is not signed"));
    site.lock().expect("no panic").list(&subject, &[]);
    assert!(obtain().expect_err("no signature").to_string().contains("is not signed"));
    site.lock().expect("no panic").list(&subject, &[(artifact.artifact_type, b"gone")]);
    assert!(obtain().expect_err("no signature").to_string().contains("is not signed"));
    let broken = (oci::INDEX.to_owned(), b"[".to_vec());
    site.lock().expect("no panic").content.insert(format!("referrers/{subject}"), broken);
    assert!(obtain().expect_err("a lie").to_string().contains("a list of referrers that is not one"));
    // A signature of another image, which the registry lists as one of this image.
    let other = signatures[0].to_artifact(&Digest::of(b"another image"), 1).expect("ours").manifest;
    site.lock().expect("no panic").manifest(&other);
    site.lock().expect("no panic").list(&subject, &[(artifact.artifact_type, &other)]);
    assert!(obtain().expect_err("another subject").to_string().contains("is not signed"));
    site.lock().expect("no panic").list(&subject, &[(artifact.artifact_type, &artifact.manifest)]);
    assert!(obtain().expect_err("another key").to_string().contains(&key.id().to_string()));
    trusted(&key);
    site.lock().expect("no panic").asked.clear();
    assert_eq!(obtain().expect("signed").image.id, subject);
    let asked = site.lock().expect("no panic").asked.clone();
    let listed = asked.iter().find(|path| path.starts_with("referrers/")).expect("the API was asked");
    assert!(listed.contains("artifactType=application/vnd.pod.signature.v1"), "{listed}");
    assert!(!asked.iter().any(|path| path.contains(&Digest::of(b"not there").hex())), "other artifacts are left alone");
}

/// A registry that sends its clients to another one stays the one that was asked, and plain http stays plain.
#[test]
fn a_redirect_does_not_change_who_was_asked() {
    if !rustix::process::geteuid().is_root() {
        println!("skip: images are unpacked by root only");
        assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
        return;
    }
    let root = tempfile::tempdir().expect("temporary directory");
    let (key, stranger) = (SecretKey::generate().expect("entropy"), SecretKey::generate().expect("entropy"));
    let [first, second] = [(); 2].map(|()| Arc::new(Mutex::new(Site::default())));
    let [asked, other] = [&first, &second].map(|site| serve(Arc::clone(site)));
    // The other registry has an image of its own, signed for its own name by its own key.
    let (pod, sig) = native::image(root.path(), &stranger, &format!("{other}/app"), "one");
    let file = root.path().join("one.pod");
    std::fs::write(&file, pod).expect("file");
    let opened = SourceImage::open(&Source::Pod(file), host_architecture()).expect("own file");
    let Content::Native { manifest, config } = &opened.content else { panic!("native") };
    let subject = Digest::of(manifest);
    let artifact = Signature::from_file(&sig).expect("own signature")[0].to_artifact(&subject, 1).expect("ours");
    {
        let mut site = second.lock().expect("no panic");
        site.manifest(manifest);
        site.content.insert("manifests/1.0".to_owned(), (oci::MANIFEST.to_owned(), manifest.clone()));
        let layers = opened.layers.iter().map(|layer| layer.extent.bytes(1 << 20).expect("small"));
        layers.chain([config.clone()]).for_each(|bytes| site.blob(&bytes));
        artifact.blobs.iter().for_each(|(_, bytes)| site.blob(bytes));
        site.manifest(&artifact.manifest);
        site.list(&subject, &[(artifact.artifact_type, &artifact.manifest)]);
        let mut from = first.lock().expect("no panic");
        for path in site.content.keys() {
            let to = format!("http://{other}/v2/app/{path}").into_bytes();
            from.content.insert(path.clone(), (REDIRECT.to_owned(), to));
        }
    }
    let dirs = TrustDirs::new(&root.path().join("usr"), &root.path().join("etc"));
    let obtain = |host: &str| -> Result<Obtained, ObtainError> {
        let images =
            Images { store: Store::open(&root.path().join("store")).expect("store"), policy: Policy::load(&dirs) };
        let reference = Reference::parse(&format!("{host}/app:1.0")).expect("reference");
        images.obtain(&reference, PullPolicy::Update, HTTP)
    };
    let trusted = |host: &str, key: &SecretKey| {
        let prefix = Prefix::parse(host).expect("prefix");
        trust::add(&dirs, &prefix, &key.public().to_line(), &AddOptions::default()).expect("add");
    };
    trusted(&other, &stranger);
    trusted(&asked, &key);
    assert_eq!(obtain(&other).expect("its own").image.id, subject);
    let error = obtain(&asked).expect_err("another publisher's").to_string();
    assert!(error.contains("which calls itself") && error.contains("is trusted for"), "{error}");
    // Whoever accepts anything of the other registry, or of the asked one, does so over TLS only.
    for host in [&other, &asked] {
        let file = root.path().join(format!("etc/trust.d/{host}.json"));
        std::fs::write(file, r#"{"version":1,"accept":"anything"}"#).expect("rule");
        let error = obtain(host).expect_err("plain http").to_string();
        assert!(error.contains("this came by plain http"), "{error}");
    }
}
