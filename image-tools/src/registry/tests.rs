//! Registries that lie: a server on the loopback that answers whatever a test wants, and the sentence that follows.

use super::*;
use crate::digest::Digest;
use crate::name::Version;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const IMAGE: &str = concat!(
    r#"{"schemaVersion":2,"layers":[],"config":{"mediaType":"x","size":2,"digest":"#,
    r#""sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}"#
);

/// One request as the server saw it.
struct Asked {
    method: String,
    path: String,
    headers: Vec<String>,
    count: u32,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Answers until the process ends; one connection at a time, closed after each answer. Nobody else finds its port.
fn serve(answer: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    std::thread::spawn(move || {
        let count = AtomicU32::new(0);
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            // The client may hang up on a lie; that is its right.
            let _ = answer_one(&stream, &answer, &count);
        }
    });
    address
}

fn answer_one(mut stream: &TcpStream, answer: &impl Fn(&Asked) -> Vec<u8>, count: &AtomicU32) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(first) = lines.first().cloned() else { return Ok(()) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let asked = Asked { method, path, headers: lines.split_off(1), count: count.fetch_add(1, Ordering::SeqCst) };
    stream.write_all(&answer(&asked))
}

fn response(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes();
    for header in headers {
        bytes.extend(format!("{header}\r\n").bytes());
    }
    if !headers.iter().any(|header| header.starts_with("Content-Length") || header.starts_with("Transfer")) {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

fn manifest(body: &[u8]) -> Vec<u8> {
    response("200 OK", &[&format!("Content-Type: {MANIFEST}")], body)
}

fn repository(address: &str) -> Repository {
    let settings = Settings { plain_http: true, ..Settings::default() };
    let name = ImageName::parse(&format!("{address}/app")).expect("name");
    Registry::new(settings).expect("registry").repository(&name).expect("repository")
}

fn image_error(answer: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> String {
    let address = serve(answer);
    let found = repository(&address).image(Some(&Version::latest()), None, &Platform::host());
    found.expect_err("a lie").to_string().replace(&address, "HOST")
}

fn read_blob(bytes: &'static [u8], answer: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> Result<Vec<u8>, String> {
    let address = serve(answer);
    let text = |error: String| error.replace(&address, "HOST");
    let mut reader = repository(&address)
        .blob(&Digest::of(bytes), bytes.len() as u64, 0)
        .map_err(|error| text(error.to_string()))?;
    let mut read = Vec::new();
    reader.read_to_end(&mut read).map_err(|error| text(error.to_string()))?;
    Ok(read)
}

#[test]
fn lies_about_manifests() {
    let wrong_type = |_: &Asked| response("200 OK", &["Content-Type: text/html"], b"<html>");
    assert_eq!(image_error(wrong_type), "HOST answers with a document of type `text/html`");
    let confused = r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#;
    assert_eq!(
        image_error(|_| manifest(confused.as_bytes())),
        "HOST answers with a document that is refused: the image manifest has both layers and manifests"
    );
    let endless =
        |_: &Asked| response("200 OK", &["Content-Type: x", "Content-Length: 9999999999"], &vec![b' '; (4 << 20) + 9]);
    assert_eq!(image_error(endless), "HOST answers with more than 4194304 bytes where a document belongs");
    let missing = |_: &Asked| response("404 Not Found", &[], b"");
    assert_eq!(image_error(missing), "HOST has no manifest `app:latest`");
    let wall = |_: &Asked| response("403 Forbidden", &[], b"");
    assert_eq!(image_error(wall), "HOST answers 403 to manifest `app:latest`");
}

#[test]
fn another_digest_than_asked_for() {
    let address = serve(|_| manifest(IMAGE.as_bytes()));
    let wanted = Digest::of(b"something else");
    let error = repository(&address).image(None, Some(&wanted), &Platform::host()).expect_err("a lie");
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
}

#[test]
fn redirects_without_end_and_to_odd_places() {
    let circle = |asked: &Asked| response("302 Found", &[&format!("Location: {}", asked.path)], b"");
    assert_eq!(image_error(circle), "HOST answers with redirects without end");
    let file = |_: &Asked| response("302 Found", &["Location: file:///etc/passwd"], b"");
    assert_eq!(image_error(file), "HOST answers a redirect without a usable address");
}

#[test]
fn logins_are_not_asked_for_twice() {
    let asked_for = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked_for);
    let error = image_error(move |asked| {
        log.lock().expect("lock").push(asked.path.clone());
        if asked.path.starts_with("/token") {
            return response("200 OK", &[], br#"{"token":"t"}"#);
        }
        let host = asked.header("host").unwrap_or_default();
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",scope=\"repository:app:pull\"");
        response("401 Unauthorized", &[&challenge], b"")
    });
    assert_eq!(error, "HOST asks for a login to read app");
    let asked_for = asked_for.lock().expect("lock");
    assert_eq!(asked_for.len(), 3, "{asked_for:?}");
}

/// CVE-2024-3727 and its kind: a registry names another host as the place for its logins.
#[test]
fn cve_2024_3727_credentials_go_nowhere_else() {
    let error = image_error(|_| {
        response("401 Unauthorized", &["WWW-Authenticate: Bearer realm=\"http://collector.example.com/token\""], b"")
    });
    assert!(error.contains("must go to `collector.example.com`, which is not of its domain"), "{error}");
}

#[test]
fn a_login_does_not_follow_a_redirect_to_another_host() {
    let elsewhere = serve(|asked| match asked.header("authorization") {
        Some(_) => response("500 Leaked", &[], b""),
        None => manifest(IMAGE.as_bytes()),
    });
    let address = serve(move |asked| match (asked.path.as_str(), asked.header("authorization")) {
        ("/token", _) => response("200 OK", &[], br#"{"token":"t"}"#),
        (_, Some("Bearer t")) => response("307 Away", &[&format!("Location: http://{elsewhere}/x")], b""),
        _ => {
            let realm = format!("http://{}/token", asked.header("host").unwrap_or_default());
            response("401 Login", &[&format!("WWW-Authenticate: Bearer realm=\"{realm}\"")], b"")
        }
    });
    let found = repository(&address).image(None, None, &Platform::host());
    assert_eq!(found.expect("the image").manifest.bytes, IMAGE.as_bytes());
}

#[test]
fn a_busy_registry_is_asked_again() {
    let address = serve(|asked| match asked.count {
        0 => response("429 Too Many Requests", &["Retry-After: 0"], b""),
        1 => response("503 Busy", &["Retry-After: 0"], b""),
        _ => manifest(IMAGE.as_bytes()),
    });
    assert!(repository(&address).image(None, None, &Platform::host()).is_ok());
    let never = |_: &Asked| response("500 Broken", &["Retry-After: 0"], b"");
    assert_eq!(image_error(never), "HOST answers 500 to manifest `app:latest`");
}

#[test]
fn a_broken_blob_is_resumed() {
    static BLOB: &[u8] = b"0123456789";
    let resumed = read_blob(BLOB, |asked| match asked.header("range") {
        // The first connection breaks after four bytes.
        None => response("200 OK", &["Content-Length: 10"], &BLOB[..4]),
        Some("bytes=4-") => response("206 Partial", &["Content-Range: bytes 4-9/10"], &BLOB[4..]),
        Some(_) => response("416 Range", &[], b""),
    });
    assert_eq!(resumed.as_deref(), Ok(BLOB));
    let without_ranges = read_blob(BLOB, |asked| {
        let end = if asked.count == 0 { 4 } else { 10 };
        response("200 OK", &["Content-Length: 10"], &BLOB[..end])
    });
    assert_eq!(without_ranges.as_deref(), Ok(BLOB));
}

#[test]
fn lies_about_blobs() {
    static BLOB: &[u8] = b"0123456789";
    let short = read_blob(BLOB, |_| response("200 OK", &[], &BLOB[..4]));
    assert_eq!(short, Err("HOST answers a blob of 4 bytes where its manifest says 10".into()));
    let chunked = [b"b\r\n0123456789X\r\n0\r\n\r\n".as_slice()].concat();
    let long = read_blob(BLOB, move |_| response("200 OK", &["Transfer-Encoding: chunked"], &chunked));
    assert_eq!(long, Err("HOST answers a blob longer than 10 bytes".into()));
    let wrong_part = read_blob(BLOB, |asked| match asked.header("range") {
        None => response("200 OK", &["Content-Length: 10"], &BLOB[..4]),
        Some(_) => response("206 Partial", &["Content-Range: bytes 0-5/10"], &BLOB[..6]),
    });
    assert_eq!(wrong_part, Err("HOST answers 206 with the wrong part of a blob".into()));
    let broken = read_blob(BLOB, |asked| match asked.count {
        0 => response("200 OK", &["Content-Length: 10"], &BLOB[..4]),
        _ => response("206 Partial", &["Content-Range: bytes 4-9/10", "Content-Length: 6"], b""),
    });
    assert_eq!(broken, Err("HOST: the connection ended early, after 4 of 10 bytes".into()));
}

#[test]
fn a_download_survives_its_process() {
    static BLOB: &[u8] = b"0123456789";
    let directory = tempfile::tempdir().expect("tempdir");
    let digest = Digest::of(BLOB);
    std::fs::write(directory.path().join(format!("{}.partial", digest.hex())), b"0123").expect("write");
    let address = serve(|asked| match asked.header("range") {
        Some("bytes=4-") => response("206 Partial", &["Content-Range: bytes 4-9/10"], &BLOB[4..]),
        _ => response("400 Bad", &[], b""),
    });
    let partial = Partial::lock(directory.path(), &digest, 10).expect("lock");
    let mut download = partial.download(&repository(&address), &digest).expect("download");
    let mut bytes = Vec::new();
    download.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes, BLOB);
    let (path, _locked) = download.finish();
    assert_eq!(std::fs::read(path).expect("kept"), BLOB);
}

#[test]
fn plain_http_only_when_asked() {
    let address = serve(|_| manifest(IMAGE.as_bytes()));
    let name = ImageName::parse(&format!("{address}/app")).expect("name");
    let secure = Registry::new(Settings::default()).expect("registry").repository(&name).expect("repository");
    let error = secure.document("latest", &[MANIFEST]).expect_err("no TLS there");
    assert!(matches!(error, RegistryError::Transport { .. } | RegistryError::Tls { .. }), "{error:?}");
}

#[test]
fn pushing_follows_the_upload() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    let address = serve(move |asked| {
        seen.lock().expect("lock").push(format!(
            "{} {}",
            asked.method,
            asked.path.split("sha256").next().unwrap_or("")
        ));
        match asked.method.as_str() {
            "HEAD" => response("404 No", &[], b""),
            "POST" | "PATCH" => response("202 Go On", &["Location: /next?state=1"], b""),
            _ => response("201 Created", &["OCI-Subject: x"], b""),
        }
    });
    let repository = repository(&address);
    let sent = repository.push_blob(&Digest::of(b"abc"), 3, || Ok(&b"abc"[..])).expect("push");
    assert_eq!(sent, Upload::Sent);
    assert!(repository.push_manifest("latest", MANIFEST, IMAGE.as_bytes()).expect("push"));
    let log = log.lock().expect("lock").join("\n");
    let wanted = "HEAD /v2/app/blobs/\nPOST /v2/app/blobs/uploads/\nPATCH /next?state=1\n\
                  PUT /next?state=1&digest=\nPUT /v2/app/manifests/latest";
    assert_eq!(log, wanted);
}
