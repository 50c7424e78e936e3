//! Images of a real registry: pushed by skopeo, fetched, judged and unpacked by us.

use std::fs;

use image_tools::digest::Digest;
use image_tools::key::SecretKey;
use image_tools::name::{ImageName, Version};
use image_tools::obtain::{Images, Insecure, ObtainError, Obtained, PullPolicy, Trust};
use image_tools::oci::{self, host_architecture};
use image_tools::reference::{NameReference, Reference, Source};
use image_tools::registry::{Registry, Settings};
use image_tools::signature::{self, Signature};
use image_tools::signing;
use image_tools::source::{Content, SourceImage};
use image_tools::statement::Subject;
use image_tools::store::{Documents, Origin, Store, StoredImage};
use image_tools::trust::{self, AddOptions, Policy, Prefix, TrustDirs};

#[path = "registry/certificates.rs"]
mod certificates;
#[path = "registry/layout.rs"]
mod layout;
#[path = "registry/server.rs"]
mod server;

use certificates::run;
use layout::layout;
use server::{Server, skopeo};

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
        let server = server::start(&registry, None)?;
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
        fs::set_permissions(local.join("auth.d/test.json"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("login");
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
    let key = SecretKey::generate().expect("entropy").public().to_line();
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
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("login");
    let error = bench.obtain(&bench.name("team/none:1"), PullPolicy::New, INSECURE).expect_err("absent").to_string();
    assert!(error.contains("has no manifest"), "{error}");
    fs::remove_file(bench.root.path().join("etc/registries.d/test.json")).expect("remove");
    let error = bench.obtain(&bench.name("team/app:1"), PullPolicy::New, INSECURE).expect_err("no CA").to_string();
    assert!(error.contains("no CA that this machine trusts has signed it"), "{error}");
    let lax = Insecure { tls: true, ..INSECURE };
    assert!(bench.obtain(&bench.name("team/app:1"), PullPolicy::New, lax).is_ok());
}

/// A signed native image in the store of `bench`.
fn signed(bench: &Bench, key: &SecretKey, name: &str, content: &str) -> StoredImage {
    let layout = layout(&bench.root.path().join(format!("native-{}", name.replace(['/', ':'], "-"))), content);
    let store = Store::open(&bench.root.path().join("publisher")).expect("store");
    let source = Source::parse(&format!("oci:{}", layout.display())).expect("source");
    let opened = SourceImage::open(&source, host_architecture()).expect("layout");
    let origin = Origin {
        source: "test".to_owned(),
        manifest: None,
        index: None,
        came: Vec::new(),
        pinned: false,
        insecure: false,
    };
    let (name, version) = (ImageName::parse(name).expect("name"), Version::parse("1.0").expect("version"));
    let image = store.import(&opened, &name, Some(&version), origin.clone()).expect("import");
    let subject = Subject {
        name,
        version: Some(version),
        os: "linux".to_owned(),
        architecture: host_architecture().to_owned(),
        manifest: image.id,
        index: None,
    };
    let signature = signing::sign(key, &subject, jiff::Timestamp::now(), None).expect("sign");
    let manifest = store.blob(&image.id, oci::BYTES_MAX).expect("manifest");
    let config = image.config.to_bytes();
    store
        .add_image(&Documents { manifest, config, signatures: vec![signature], origin, names: Vec::new() })
        .expect("signed")
}

impl Bench {
    fn push_signed(&self, image: &StoredImage, to: &str) -> Digest {
        let store = Store::open(&self.root.path().join("publisher")).expect("store");
        let images = Images { store, policy: Policy::load(&self.dirs) };
        images.push(image, &NameReference::parse(to).expect("name"), SECURE).expect("push")
    }

    fn trust(&self, prefix: &str, key: &SecretKey) {
        let prefix = Prefix::parse(prefix).expect("prefix");
        trust::add(&self.dirs, &prefix, &key.public().to_line(), &AddOptions::default()).expect("add");
    }
}

#[test]
fn pushed_images_keep_their_signatures_and_serve_other_tools() {
    let Some(bench) = Bench::new() else { return };
    let key = SecretKey::generate().expect("entropy");
    let image = signed(&bench, &key, &bench.name("team/app"), "native");
    let index = bench.push_signed(&image, &bench.name("team/app:1.0"));
    let wanted = bench.name("team/app:1.0");
    let error = bench.obtain(&wanted, PullPolicy::New, SECURE).expect_err("no rule").to_string();
    assert!(error.contains(&format!("image `{wanted}`")) && error.contains("no trust rule"), "{error}");
    let prefix = bench.name("team");
    bench.trust(&prefix, &key);
    let fetched = bench.obtain(&wanted, PullPolicy::New, SECURE).expect("trusted");
    assert_eq!(fetched.image.id, image.id);
    assert_eq!(fetched.trust, Trust::Signature { prefix, keys: vec![key.id().to_string()] });
    assert_eq!(fetched.image.signatures, image.signatures);
    // The same again sends and sets nothing else.
    assert_eq!(bench.push_signed(&image, &wanted), index);
    // skopeo takes the manifest beside it, with the app in the words of OCI.
    let copy = bench.root.path().join("copied");
    let (from, to) = (format!("docker://{wanted}"), format!("oci:{}:x", copy.display()));
    run(&mut skopeo(&bench.server, &["copy", &from, &to]));
    let opened = SourceImage::open(&Source::parse(&to).expect("source"), host_architecture()).expect("layout");
    let Content::Foreign(description) = opened.content else { panic!("an OCI configuration") };
    assert_eq!(description.app.expect("app").exec, ["/app"]);
}

#[test]
fn a_signed_image_under_another_name_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let key = SecretKey::generate().expect("entropy");
    bench.trust(&bench.name("team"), &key);
    let image = signed(&bench, &key, &bench.name("team/a"), "a");
    bench.push_signed(&image, &bench.name("team/b:1.0"));
    let error = bench.obtain(&bench.name("team/b:1.0"), PullPolicy::New, SECURE).expect_err("another").to_string();
    assert!(error.contains(&format!("calls itself `{}`", bench.name("team/a:1.0"))), "{error}");
    bench.push_signed(&image, &bench.name("team/a:2.0"));
    let error = bench.obtain(&bench.name("team/a:2.0"), PullPolicy::New, SECURE).expect_err("another version");
    assert!(error.to_string().contains("the signature is for version `1.0`"), "{error}");
}

/// Pushes an image of another tool with a cosign signature in the older layout and one as a bundle.
fn push_cosigned(bench: &Bench, rest: &str, key: &p256::ecdsa::SigningKey, old_layout: bool) -> Digest {
    use base64::Engine as _;
    use p256::ecdsa::signature::hazmat::PrehashSigner as _;
    use sha2::Digest as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let sign = |message: &[u8]| {
        let signature: p256::ecdsa::Signature = key.sign_prehash(&sha2::Sha256::digest(message)).expect("signs");
        base64.encode(signature.to_der().as_bytes())
    };
    let digest = bench.push(&format!("{rest}:1"), "oci", rest);
    let settings = Settings::load(&bench.dirs.configuration()).expect("settings");
    let registry = Registry::new(settings).expect("registry");
    let repository = registry.repository(&ImageName::parse(&bench.name(rest)).expect("name")).expect("repository");
    let push = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        repository.push_blob(&digest, bytes.len() as u64, || Ok(std::io::Cursor::new(bytes))).expect("blob");
        (digest, bytes.len())
    };
    let (config, config_size) = push(b"{}");
    if old_layout {
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"{}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#,
            bench.name(rest)
        );
        let (layer, size) = push(payload.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{0}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":{config_size},"digest":"{config}"}},"layers":[{{"mediaType":"{1}","size":{size},"digest":"{layer}","annotations":{{"{2}":"{3}"}}}}]}}"#,
            oci::MANIFEST,
            signature::SIMPLE_SIGNING_TYPE,
            signature::SIMPLE_SIGNING_ANNOTATION,
            sign(payload.as_bytes())
        );
        let tag = format!("sha256-{}.sig", digest.hex());
        repository.push_manifest(&tag, oci::MANIFEST, manifest.as_bytes()).expect("signature");
        return digest;
    }
    let kind = "application/vnd.in-toto+json";
    let statement = format!(
        r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{{}}}}"#,
        digest.hex()
    );
    let signature = sign(format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len()).as_bytes());
    let bundle = Signature::CosignBundle {
        bundle: format!(
            r#"{{"mediaType":"{}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{}","payloadType":"{kind}","signatures":[{{"sig":"{signature}"}}]}}}}"#,
            signature::BUNDLE_TYPE,
            base64.encode(&statement)
        ),
        signed: None,
    };
    let artifact = bundle.to_artifact(&digest, 1).expect("artifact");
    for (_, bytes) in &artifact.blobs {
        push(bytes);
    }
    repository.push_referrer(&digest, artifact.artifact_type, oci::MANIFEST, &artifact.manifest).expect("referrer");
    digest
}

#[test]
fn cosign_signatures_of_both_layouts_are_found() {
    use base64::Engine as _;
    let Some(bench) = Bench::new() else { return };
    let key = p256::ecdsa::SigningKey::from_bytes(&[9; 32].into()).expect("in range");
    let pem = {
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let der = [&head[..], key.verifying_key().to_sec1_point(false).as_bytes()].concat();
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    };
    for (rest, old_layout) in [("team/old", true), ("team/new", false)] {
        let name = bench.name(rest);
        let digest = push_cosigned(&bench, rest, &key, old_layout);
        let error = bench.obtain(&format!("{name}:1"), PullPolicy::New, SECURE).expect_err("no rule").to_string();
        assert!(error.contains("no trust rule"), "{error}");
        trust::add(&bench.dirs, &Prefix::parse(&name).expect("prefix"), &pem, &AddOptions::default()).expect("add");
        let obtained = bench.obtain(&format!("{name}:1"), PullPolicy::New, SECURE).expect("signed");
        assert!(matches!(obtained.trust, Trust::Signature { .. }));
        assert_eq!(obtained.image.origin.manifest, Some(digest));
        // From the store, the same signature is judged again.
        assert!(bench.obtain(&format!("{name}:1"), PullPolicy::Never, SECURE).is_ok());
        let id = trust::list(&bench.dirs).expect("rules")[0].keys[0].id.clone();
        let prefix = Prefix::parse(&name).expect("prefix");
        trust::remove(&bench.dirs, &prefix, image_tools::key::KeyId::parse(&id).expect("id")).expect("remove");
        assert!(bench.obtain(&format!("{name}:1"), PullPolicy::Never, SECURE).is_err());
    }
}
