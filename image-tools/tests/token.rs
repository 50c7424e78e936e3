//! Logins by token: the real `docker-registry` that takes nothing else, and a token service of the test's own, which signs
//! as the registry's documentation says and counts who asks with what.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use image_tools::obtain::{Images, Insecure, ObtainError, Obtained, PullPolicy};
use image_tools::reference::{NameReference, Reference};
use image_tools::store::Store;
use image_tools::trust::{Policy, TrustDirs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/server.rs"]
mod server;

use server::{PASSWORD, Server, USER};

const INSECURE: Insecure = Insecure { image: true, tls: false, http: false };
const REFRESH: &str = "a-refresh-token";

/// Each request to the token service: what it was about, and by whom.
type Asked = Arc<Mutex<Vec<String>>>;

struct Site {
    root: tempfile::TempDir,
    server: Server,
    asked: Asked,
}

/// Signs what the registry accepts: RS256, by a key whose certificate it was told of.
fn token(directory: &Path, scope: &str) -> String {
    let mut words = scope.split(':').skip(1);
    let (name, actions) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let actions: Vec<&str> = actions.split(',').collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let certificate = fs::read(directory.join("token.der")).expect("certificate");
    let header = serde_json::json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(certificate)] });
    let payload = serde_json::json!({
        "iss": "test", "sub": USER, "aud": "test-registry", "exp": now + 60, "nbf": now - 60, "iat": now, "jti": "1",
        "access": [{ "type": "repository", "name": name, "actions": actions }],
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(payload));
    fs::write(directory.join("to-sign"), &signed).expect("file");
    let sign = ["dgst", "-sha256", "-sign", "token.key", "to-sign"];
    let output = Command::new("openssl").args(sign).current_dir(directory).output().expect("openssl");
    assert!(output.status.success());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(output.stdout))
}

/// Answers one request to the token service.
fn answer(directory: &Path, stream: &mut (impl std::io::Read + std::io::Write), asked: &Asked) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let values = lines.iter().filter_map(|line| line.split_once(": "));
        values.into_iter().find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.to_owned()))
    };
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let form = String::from_utf8_lossy(&body).into_owned();
    let query = if method == "POST" { form.as_str() } else { path.split_once('?').map_or("", |(_, query)| query) };
    let field = |name: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().replace("%3A", ":").replace("%2F", "/").replace("%2C", ",")
    };
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let who = match (method, header("authorization")) {
        ("GET", Some(login)) if login == basic => "password",
        ("POST", None) if field("grant_type") == "refresh_token" && field("refresh_token") == REFRESH => "refresh",
        (_, None) => "nobody",
        _ => "somebody else",
    };
    let scope = field("scope");
    asked.lock().expect("no panic").push(format!("{who} {scope}"));
    let answer = match who {
        "password" => serde_json::json!({ "token": token(directory, &scope) }).to_string(),
        "refresh" => serde_json::json!({ "access_token": token(directory, &scope) }).to_string(),
        _ => String::new(),
    };
    let status = if answer.is_empty() { "401 Unauthorized" } else { "200 OK" };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
    reader.get_mut().write_all(format!("{head}{answer}").as_bytes())
}

/// The token service, on TLS by the certificate of the registry; it ends with the test.
fn serve(directory: PathBuf, listener: TcpListener, asked: Asked) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(directory.join("server.crt")).expect("certificate");
    let chain: Vec<_> = chain.map(|certificate| certificate.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).expect("key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).expect("connection");
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let _ = answer(&directory, &mut stream, &asked); // The client may hang up.
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
}

impl Site {
    fn start() -> Option<Self> {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = root.path().join("registry");
        fs::create_dir(&directory).expect("directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = listener.local_addr().expect("address").port();
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=token service"];
        let made = Command::new("openssl")
            .args(request)
            .args(["-keyout", "token.key", "-out", "token.crt"])
            .current_dir(&directory)
            .output();
        if made.is_ok() {
            let convert = ["x509", "-in", "token.crt", "-outform", "DER", "-out", "token.der"];
            certificates::run(Command::new("openssl").args(convert).current_dir(&directory));
        }
        let bundle = directory.join("token.crt").display().to_string();
        let auth = format!(
            "{{token: {{realm: \"https://localhost:{port}/token\", service: test-registry, issuer: test, rootcertbundle: {bundle}}}}}"
        );
        let server = server::start(&directory, Some(&auth))?;
        let asked = Asked::default();
        serve(directory.clone(), listener, Arc::clone(&asked));
        let local = root.path().join("etc");
        fs::create_dir_all(local.join("registries.d")).expect("directory");
        fs::create_dir_all(local.join("auth.d")).expect("directory");
        let rule = format!(r#"{{"registry":"{}","ca":"{}"}}"#, server.host, directory.join("ca.crt").display());
        fs::write(local.join("registries.d/test.json"), rule).expect("rule");
        Some(Self { root, server, asked })
    }

    fn images(&self) -> Images {
        let store = Store::open(&self.root.path().join("store")).expect("store");
        let dirs = TrustDirs::new(&self.root.path().join("usr"), &self.root.path().join("etc"));
        Images { store, policy: Policy::load(&dirs) }
    }

    fn login(&self, password: &str) {
        let login = format!(r#"{{"registries":["{}"],"user":"{USER}","password":"{password}"}}"#, self.server.host);
        let file = self.root.path().join("etc/auth.d/test.json");
        fs::write(&file, login).expect("login");
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("login");
    }

    fn fetch(&self, rest: &str) -> Result<Obtained, ObtainError> {
        let name = format!("{}/{rest}", self.server.host);
        self.images().obtain(&Reference::parse(&name).expect("reference"), PullPolicy::Update, INSECURE)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

/// Runs in a process of its own, whose environment names the auth file and where the helper is.
#[test]
fn child() {
    let Ok(text) = std::env::var("POD_TEST_TOKEN") else { return };
    let (root, name) = text.split_once(' ').expect("two words");
    let root = Path::new(root);
    let store = Store::open(&root.join("store-of-the-child")).expect("store");
    let dirs = TrustDirs::new(&root.join("usr"), &root.join("etc"));
    let images = Images { store, policy: Policy::load(&dirs) };
    images.obtain(&Reference::parse(name).expect("reference"), PullPolicy::Update, INSECURE).expect("fetched");
}

#[test]
fn tokens_are_asked_for_with_a_login_and_used() {
    let Some(site) = Site::start() else { return };
    let error = site.fetch("team/layout:1").expect_err("no login").to_string();
    assert!(error.contains("asks for a login"), "{error}");
    assert_eq!(site.asked(), ["nobody repository:team/layout:pull"]);
    site.login("wrong");
    let error = site.fetch("team/layout:1").expect_err("wrong login").to_string();
    assert!(error.contains("refuses the credentials from") && !error.contains("wrong"), "{error}");
    site.asked();
    site.login(PASSWORD);
    // What is pushed with one token is pulled with another.
    let layout = layout::layout(&site.root.path().join("layout"), "by token");
    let opened = Reference::parse(&format!("oci:{}", layout.display())).expect("source");
    let image = site.images().obtain(&opened, PullPolicy::New, INSECURE).expect("imported").image;
    let to = NameReference::parse(&format!("{}/team/layout:1", site.server.host)).expect("name");
    site.images().push(&image, &to, INSECURE).expect("pushed");
    assert!(
        site.asked()
            .iter()
            .any(|asked| asked.starts_with("password repository:team/layout:") && asked.contains("push"))
    );
    // Another tool is content with the same service.
    let from = format!("oci:{}", layout.display());
    let copy = ["copy", "--quiet", &from, &format!("docker://{}/team/other:1", site.server.host)];
    certificates::run(&mut server::skopeo(&site.server, &copy));
    site.asked();
    let fetched = site.fetch("team/layout:1").expect("fetched");
    assert_eq!(fetched.image.id, image.id);
    let asked = site.asked();
    assert_eq!(asked, ["password repository:team/layout:pull"], "one token serves the whole fetch");
    let error = site.fetch("team/none:1").expect_err("absent").to_string();
    assert!(error.contains("has no manifest"), "{error}");

    // An auth file of another tool with a refresh token, and a helper that keeps the login.
    fs::remove_file(site.root.path().join("etc/auth.d/test.json")).expect("remove");
    site.asked();
    let helpers = site.root.path().join("bin");
    fs::create_dir(&helpers).expect("directory");
    let helper = helpers.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {}' ] || exit 1\necho '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
        site.server.host
    );
    fs::write(&helper, script).expect("helper");
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let refresh = format!(r#"{{"auths":{{"{}":{{"identitytoken":"{REFRESH}"}}}}}}"#, site.server.host);
    let helped = format!(r#"{{"auths":{{"{0}":{{}}}},"credHelpers":{{"{0}":"test"}}}}"#, site.server.host);
    let path = format!("{}:{}", helpers.display(), std::env::var("PATH").unwrap_or_default());
    for (content, who) in [(refresh, "refresh"), (helped, "password")] {
        let file = site.root.path().join("auth.json");
        fs::write(&file, content).expect("auth file");
        let name = format!("{}/team/layout:1", site.server.host);
        let mut child = Command::new(std::env::current_exe().expect("own path"));
        child.args(["--exact", "child"]).env("POD_TEST_TOKEN", format!("{} {name}", site.root.path().display()));
        certificates::run(child.env("REGISTRY_AUTH_FILE", &file).env("PATH", &path));
        assert_eq!(site.asked(), [format!("{who} repository:team/layout:pull")]);
    }
}
