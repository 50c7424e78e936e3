//! Images of a real registry: pushed by skopeo, fetched, judged and unpacked by us.

use std::fs;
use std::path::{Path, PathBuf};

use image_tools::digest::Digest;
use image_tools::obtain::{Images, Insecure, ObtainError, Obtained, PullPolicy, Trust};
use image_tools::reference::Reference;
use image_tools::store::Store;
use image_tools::trust::{self, AddOptions, Policy, Prefix, TrustDirs};

#[path = "registry/server.rs"]
mod server;

use server::{Server, run, skopeo};

const INSECURE: Insecure = Insecure { image: true, tls: false, http: false };
const SECURE: Insecure = Insecure { image: false, tls: false, http: false };

struct Bench {
    root: tempfile::TempDir,
    server: Server,
    dirs: TrustDirs,
}

impl Bench {
    fn new() -> Option<Self> {
        let root = tempfile::tempdir().expect("temporary directory");
        let registry = root.path().join("registry");
        fs::create_dir(&registry).expect("directory");
        let server = server::start(&registry)?;
        let local = root.path().join("etc");
        fs::create_dir_all(local.join("registries.d")).expect("directory");
        fs::create_dir_all(local.join("auth.d")).expect("directory");
        let rule = format!(r#"{{"registry":"{}","ca":"{}"}}"#, server.host, registry.join("ca.crt").display());
        fs::write(local.join("registries.d/test.json"), rule).expect("rule");
        let login = format!(
            r#"{{"registries":["{}"],"user":"{}","password":"{}"}}"#,
            server.host,
            server::USER,
            server::PASSWORD
        );
        fs::write(local.join("auth.d/test.json"), login).expect("login");
        let dirs = TrustDirs::new(&root.path().join("usr"), &local);
        Some(Self { root, server, dirs })
    }

    fn images(&self) -> Images {
        let store = Store::open(&self.root.path().join("store")).expect("store");
        Images { store, policy: Policy::load(&self.dirs) }
    }

    fn obtain(&self, text: &str, pull: PullPolicy, insecure: Insecure) -> Result<Obtained, ObtainError> {
        self.images().obtain(&Reference::parse(text).expect("reference"), pull, insecure)
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.server.host)
    }

    /// Pushes an image of two layers and returns the digest of its manifest.
    fn push(&self, rest: &str, format: &str, content: &str) -> Digest {
        let layout = layout(&self.root.path().join(format!("layout-{}", rest.replace(['/', ':'], "-"))), content);
        let to = format!("docker://{}", self.name(rest));
        run(&mut skopeo(&self.server, &["copy", "--format", format, &format!("oci:{}", layout.display()), &to]));
        let raw = run(&mut skopeo(&self.server, &["inspect", "--raw", &to]));
        Digest::of(raw.as_bytes())
    }

    fn trees(&self) -> usize {
        fs::read_dir(self.root.path().join("store/layers")).map_or(0, Iterator::count)
    }
}

/// An OCI layout with two layers.
fn layout(path: &Path, content: &str) -> PathBuf {
    use std::io::Write as _;
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("directory");
    let store = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("blob");
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for (name, text) in [("base", "the same in all images"), ("app", content)] {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).expect("entry");
        let tar = tar.into_inner().expect("tar");
        diff_ids.push(format!("\"{}\"", Digest::of(&tar)));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).expect("gzip");
        layers.push(store(&gzip.finish().expect("gzip"), "application/vnd.oci.image.layer.v1.tar+gzip"));
    }
    let config = format!(
        r#"{{"os":"linux","architecture":"{}","config":{{"Cmd":["/app"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        image_tools::oci::host_architecture(),
        diff_ids.join(",")
    );
    let config = store(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","config":{config},"layers":[{1}]}}"#,
        image_tools::oci::MANIFEST,
        layers.join(",")
    );
    let manifest = store(manifest.as_bytes(), image_tools::oci::MANIFEST);
    fs::write(path.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#)).expect("index");
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("marker");
    path.to_owned()
}

#[test]
fn images_of_both_formats_are_fetched_and_shared() {
    let Some(bench) = Bench::new() else { return };
    bench.push("team/one:1", "oci", "one");
    bench.push("team/two:1", "v2s2", "two");
    let one = bench.obtain(&bench.name("team/one:1"), PullPolicy::New, INSECURE).expect("one");
    assert_eq!(one.trust, Trust::Insecure);
    assert_eq!(one.image.layers.len(), 2);
    let text = fs::read_to_string(one.image.layers[1].join("app")).expect("file");
    assert_eq!(text, "one");
    let two = bench.obtain(&format!("docker://{}", bench.name("team/two:1")), PullPolicy::New, INSECURE).expect("two");
    assert_eq!(two.image.layers[0], one.image.layers[0], "the layer they share is stored once");
    assert_eq!(bench.trees(), 3);
    // Without the registry, what is here is still found.
    let Bench { root, server, dirs } = bench;
    let name = format!("{}/team/one:1", server.host);
    drop(server);
    let images = Images { store: Store::open(&root.path().join("store")).expect("store"), policy: Policy::load(&dirs) };
    let reference = Reference::parse(&name).expect("reference");
    assert!(images.obtain(&reference, PullPolicy::New, INSECURE).is_ok());
    let error = images.obtain(&reference, PullPolicy::Update, INSECURE).expect_err("gone").to_string();
    assert!(error.contains(name.split('/').next().expect("host")), "{error}");
}

#[test]
fn unsigned_images_are_refused_before_a_layer_is_read() {
    let Some(bench) = Bench::new() else { return };
    let digest = bench.push("team/app:1", "oci", "app");
    let name = bench.name("team/app");
    let error = bench.obtain(&format!("{name}:1"), PullPolicy::New, SECURE).expect_err("no rule");
    assert!(error.to_string().contains("covered by no trust rule"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains(&format!("pod trust add --prefix {name}"))));
    assert_eq!(bench.trees(), 0);
    let prefix = Prefix::parse(&bench.server.host).expect("prefix");
    let key = image_tools::key::SecretKey::generate().expect("entropy").public().to_line();
    trust::add(&bench.dirs, &prefix, &key, &AddOptions::default()).expect("add");
    let error = bench.obtain(&format!("{name}:1"), PullPolicy::New, SECURE).expect_err("unsigned");
    assert!(error.to_string().contains("is not signed"), "{error}");
    let pinned = bench.obtain(&format!("{name}@{digest}"), PullPolicy::New, SECURE).expect("pinned");
    assert_eq!(pinned.trust, Trust::Digest);
    let other = Digest::of(b"other");
    assert!(bench.obtain(&format!("{name}@{other}"), PullPolicy::New, SECURE).is_err());
}

#[test]
fn wrong_and_missing_logins_are_told_apart() {
    let Some(bench) = Bench::new() else { return };
    bench.push("team/app:1", "oci", "app");
    let file = bench.root.path().join("etc/auth.d/test.json");
    let good = fs::read_to_string(&file).expect("login");
    fs::write(&file, good.replace("cret", "crete")).expect("login");
    let error = bench.obtain(&bench.name("team/app:1"), PullPolicy::New, INSECURE).expect_err("refused").to_string();
    assert!(error.contains("refuses the credentials from") && error.contains("auth.d/test.json"), "{error}");
    assert!(!error.contains("crete"), "a password is never shown");
    fs::remove_file(&file).expect("remove");
    let error = bench.obtain(&bench.name("team/app:1"), PullPolicy::New, INSECURE).expect_err("none").to_string();
    assert!(error.contains("asks for a login"), "{error}");
    fs::write(&file, good).expect("login");
    let error = bench.obtain(&bench.name("team/none:1"), PullPolicy::New, INSECURE).expect_err("absent").to_string();
    assert!(error.contains("has no manifest"), "{error}");
    fs::remove_file(bench.root.path().join("etc/registries.d/test.json")).expect("remove");
    let error = bench.obtain(&bench.name("team/app:1"), PullPolicy::New, INSECURE).expect_err("no CA").to_string();
    assert!(error.contains("no CA that this machine trusts has signed it"), "{error}");
    let lax = Insecure { tls: true, ..INSECURE };
    assert!(bench.obtain(&bench.name("team/app:1"), PullPolicy::New, lax).is_ok());
}
