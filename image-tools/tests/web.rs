//! Images as plain files of a web server: resumed, not sent twice, and held to the same trust.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use image_tools::digest::Digest;
use image_tools::key::SecretKey;
use image_tools::obtain::{Images, Insecure, ObtainError, Obtained, PullPolicy, Trust};
use image_tools::reference::Reference;
use image_tools::store::Store;
use image_tools::trust::{self, AddOptions, Policy, Prefix, TrustDirs};

#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/native.rs"]
mod native;

const HTTP: Insecure = Insecure { image: false, tls: false, http: true };

/// What the server has and what it was asked.
#[derive(Default)]
struct Site {
    pod: Vec<u8>,
    sig: Option<String>,
    cache_control: &'static str,
    /// Break the connection after so many bytes of a body, once.
    break_at: Option<usize>,
    asked: Vec<String>,
}

/// Serves `/x.pod` and `/x.pod.sig` until the test ends.
fn serve(site: Arc<Mutex<Site>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let host = listener.local_addr().expect("address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let lines: Vec<String> = BufReader::new(&stream)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .map(|line| line.to_ascii_lowercase())
                .collect();
            let answer = site.lock().expect("no panic").answer(&lines);
            let _ = stream.write_all(&answer); // The client may hang up.
        }
    });
    host
}

impl Site {
    fn answer(&mut self, lines: &[String]) -> Vec<u8> {
        let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let tag = format!("\"{}\"", &Digest::of(&self.pod).hex()[..8]);
        let range =
            header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        self.asked
            .push(format!("{path} {}", range.map_or_else(String::new, |from| from.to_string())).trim().to_owned());
        let head = format!("etag: {tag}\r\ncache-control: {}\r\nconnection: close\r\n", self.cache_control);
        match path {
            "/x.pod" if header("if-none-match") == Some(&tag) => {
                self.asked.push("unchanged".to_owned());
                format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n").into_bytes()
            }
            "/x.pod" => {
                let from = range.filter(|_| header("if-range") == Some(&tag)).unwrap_or(0);
                let (total, left) = (self.pod.len(), self.pod.len() - from);
                let status = match from {
                    0 => "200 OK".to_owned(),
                    _ => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}", total - 1),
                };
                let mut answer = format!("HTTP/1.1 {status}\r\n{head}content-length: {left}\r\n\r\n").into_bytes();
                let end = self.break_at.take().map_or(total, |at| at.min(total));
                answer.extend_from_slice(&self.pod[from..end.max(from)]);
                answer
            }
            "/x.pod.sig" if self.sig.is_some() => {
                let text = self.sig.clone().unwrap_or_default();
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}", text.len())
                    .into_bytes()
            }
            _ => b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec(),
        }
    }
}

struct Bench {
    root: tempfile::TempDir,
    dirs: TrustDirs,
    key: SecretKey,
    site: Arc<Mutex<Site>>,
    host: String,
}

impl Bench {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skip: images are unpacked by root only");
            assert!(std::env::var_os("POD_TESTS_FULL").is_none(), "skipped in the full run");
            return None;
        }
        let root = tempfile::tempdir().expect("temporary directory");
        let dirs = TrustDirs::new(&root.path().join("usr"), &root.path().join("etc"));
        let key = SecretKey::generate().expect("entropy");
        let site = Arc::new(Mutex::new(Site::default()));
        let host = serve(Arc::clone(&site));
        let bench = Self { root, dirs, key, site, host };
        bench.publish("one");
        Some(bench)
    }

    /// Puts a native image of this content on the site, with its signature beside it.
    fn publish(&self, content: &str) {
        let (pod, sig) = native::image(self.root.path(), &self.key, "example.com/app", content);
        let mut site = self.site.lock().expect("no panic");
        (site.pod, site.sig) = (pod, Some(sig));
    }

    fn obtain(&self, pull: PullPolicy) -> Result<Obtained, ObtainError> {
        let store = Store::open(&self.root.path().join("store")).expect("store");
        let images = Images { store, policy: Policy::load(&self.dirs) };
        images.obtain(&Reference::parse(&format!("http://{}/x.pod", self.host)).expect("URL"), pull, HTTP)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.site.lock().expect("no panic").asked)
    }

    fn trust(&self) {
        let prefix = Prefix::parse("example.com").expect("prefix");
        trust::add(&self.dirs, &prefix, &self.key.public().to_line(), &AddOptions::default()).expect("add");
    }
}

#[test]
fn files_are_verified_by_the_signature_beside_them() {
    let Some(bench) = Bench::new() else { return };
    let error = bench.obtain(PullPolicy::New).expect_err("no rule").to_string();
    assert!(error.contains("no trust rule"), "{error}");
    bench.trust();
    let obtained = bench.obtain(PullPolicy::New).expect("trusted");
    assert_eq!(
        obtained.trust,
        Trust::Signature { prefix: "example.com".to_owned(), keys: vec![bench.key.id().to_string()] }
    );
    assert_eq!(fs::read_to_string(obtained.image.layers[1].join("app")).expect("file"), "one");
    let left = fs::read_dir(bench.root.path().join("store/tmp")).expect("directory").count();
    assert_eq!(left, 0, "nothing half-made stays");
    bench.site.lock().expect("no panic").sig = None;
    bench.publish("two");
    bench.site.lock().expect("no panic").sig = None;
    let error = bench.obtain(PullPolicy::Update).expect_err("unsigned").to_string();
    assert!(error.contains("is not signed"), "{error}");
}

#[test]
fn unchanged_files_are_not_sent_again() {
    let Some(bench) = Bench::new() else { return };
    bench.trust();
    bench.obtain(PullPolicy::New).expect("first");
    assert_eq!(bench.asked(), ["/x.pod", "/x.pod.sig"]);
    bench.obtain(PullPolicy::New).expect("from the store");
    assert!(bench.asked().is_empty());
    bench.obtain(PullPolicy::Update).expect("unchanged");
    assert_eq!(bench.asked(), ["/x.pod", "unchanged"]);
    bench.publish("two");
    bench.site.lock().expect("no panic").cache_control = "max-age=600";
    let obtained = bench.obtain(PullPolicy::Update).expect("changed");
    assert_eq!(fs::read_to_string(obtained.image.layers[1].join("app")).expect("file"), "two");
    assert_eq!(bench.asked(), ["/x.pod", "/x.pod.sig"]);
    bench.obtain(PullPolicy::Update).expect("fresh");
    assert!(bench.asked().is_empty(), "the age has not passed");
    assert!(bench.obtain(PullPolicy::Never).is_ok());
}

#[test]
fn broken_downloads_go_on_where_they_stopped() {
    let Some(bench) = Bench::new() else { return };
    bench.trust();
    bench.site.lock().expect("no panic").break_at = Some(1000);
    bench.obtain(PullPolicy::New).expect("resumed");
    assert_eq!(bench.asked(), ["/x.pod", "/x.pod 1000", "/x.pod.sig"]);
}

#[test]
fn plain_http_must_be_asked_for() {
    let Some(bench) = Bench::new() else { return };
    let store = Store::open(&bench.root.path().join("store")).expect("store");
    let images = Images { store, policy: Policy::load(&bench.dirs) };
    let reference = Reference::parse(&format!("http://{}/x.pod", bench.host)).expect("URL");
    let error = images.obtain(&reference, PullPolicy::New, Insecure::default()).expect_err("http").to_string();
    assert!(error.contains("plain http is not used"), "{error}");
    assert!(bench.asked().is_empty());
}

#[test]
fn anything_of_a_name_is_nothing_of_a_url() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir_all(bench.root.path().join("etc/trust.d")).expect("directory");
    let rule = bench.root.path().join("etc/trust.d/example.com.json");
    fs::write(&rule, r#"{"version":1,"accept":"anything"}"#).expect("rule");
    let error = bench.obtain(PullPolicy::New).expect_err("from the web").to_string();
    assert!(error.contains("this came from the web"), "{error}");
    fs::remove_file(rule).expect("a rule");
    bench.trust();
    bench.obtain(PullPolicy::New).expect("signed");
}
