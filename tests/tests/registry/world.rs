//! A test's registry, a publisher who pushes to it, and a host that fetches from it.

use crate::server::{self, Server};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tests::{Outcome, Test, probe_bytes, probe_recipe};

/// One test's world.
pub(crate) struct World<'a> {
    pub(crate) t: &'a Test,
    pub(crate) server: Server,
}

/// One behaviour of images at a registry: `registry_test!(name, |w| { … });`.
macro_rules! registry_test {
    ($name:ident, |$world:ident| $body:block) => {
        #[test]
        fn $name() {
            tests::on_stage("namespaces", stringify!($name), |t| {
                let Some(world) = $crate::World::new(t) else { return };
                let $world = &world;
                $body
            });
        }
    };
}
pub(crate) use registry_test;

impl<'a> World<'a> {
    /// Starts the registry, and tells this test's `pod` of its CA and login.
    pub(crate) fn new(t: &'a Test) -> Option<Self> {
        let server = start(t, "registry")?;
        Some(Self { t, server })
    }

    /// `docker://HOST/REST`
    pub(crate) fn place(&self, rest: &str) -> String {
        format!("docker://{}/{rest}", self.server.host)
    }

    /// `HOST/REST`, the name that an image has there.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.server.host)
    }

    /// Trusts a key for what is under `HOST/REST`.
    pub(crate) fn trust(&self, rest: &str, key: &tests::Key) {
        self.t.trust(&self.name(rest), key);
    }

    /// An unsigned native image that is called `HOST/REST`.
    pub(crate) fn image(&self, rest: &str, content: &str) -> PathBuf {
        self.image_called(&self.name(rest), content)
    }

    /// An unsigned native image whose app is the probe; what `content` says is in it, too.
    pub(crate) fn image_called(&self, name: &str, content: &str) -> PathBuf {
        let mut recipe = probe_recipe(&probe_bytes());
        recipe.layers.push(tests::image::Layer::new().file("srv/content", 0o644, content.as_bytes()));
        self.t.convert(&recipe, name)
    }

    /// `pod` of the publisher, who has a store of its own and no trust rules.
    pub(crate) fn publisher(&self, words: &[&str]) -> Outcome {
        let mut command = self.t.program("pod");
        command.arg("--dir").arg(self.t.path("publisher")).arg("--local-config").arg(self.t.local_config());
        // What does not judge an image refuses the word.
        command.args(words).args((words[0] == "fetch").then_some("--insecure-options=image"));
        Outcome::of(&mut command)
    }

    /// Pushes a native image file to `HOST/TO`; returns the image's id.
    pub(crate) fn push(&self, file: &Path, to: &str) -> String {
        let file = file.display().to_string();
        let id = self.publisher(&["fetch", &file]).assert_ok().stdout.trim().to_owned();
        self.publisher(&["image", "push", &id, &self.place(to)]).assert_ok();
        id
    }

    /// Runs the image at `HOST/REST` from a store that has nothing yet.
    pub(crate) fn run_fresh(&self, rest: &str) -> Outcome {
        self.forget();
        self.run(&self.place(rest))
    }

    /// Runs an image, whose app prints `ran`.
    pub(crate) fn run(&self, image: &str) -> Outcome {
        self.t.cli(["run", "--stage1=namespaces", "--net=none", image, "--", "print", "ran"])
    }

    /// Removes the store.
    pub(crate) fn forget(&self) {
        match fs::remove_dir_all(self.t.data().join("images")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("remove the store: {error}"),
            _ => {}
        }
    }

    /// It ran.
    #[track_caller]
    pub(crate) fn accepted(&self, rest: &str) {
        self.run_fresh(rest).assert_exit(0).assert_stdout("ran");
    }

    /// It is refused by one sentence that holds `text`, and nothing of it is in the store.
    #[track_caller]
    pub(crate) fn refused(&self, rest: &str, text: &str) -> String {
        let outcome = self.run_fresh(rest);
        outcome.assert_refused(125, text);
        assert!(outcome.stdout.is_empty(), "{outcome}");
        for directory in ["layers", "blobs", "tmp"] {
            let left = files(&self.t.data().join("images").join(directory));
            assert_eq!(left, 0, "a refused image left something in `{directory}`: {outcome}");
        }
        outcome.stderr.lines().next().unwrap_or_default().to_owned()
    }

    /// The file in which the registry keeps a blob.
    pub(crate) fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.server.directory.join("storage/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// What a tag names at the registry.
    pub(crate) fn tagged(&self, repository: &str, tag: &str) -> String {
        let repositories = self.server.directory.join("storage/docker/registry/v2/repositories");
        let link = repositories.join(repository).join("_manifests/tags").join(tag).join("current/link");
        fs::read_to_string(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()))
    }

    /// Removes all that the registry knows of a repository; its blobs stay.
    pub(crate) fn forget_repository(&self, repository: &str) {
        let repositories = self.server.directory.join("storage/docker/registry/v2/repositories");
        fs::remove_dir_all(repositories.join(repository)).unwrap();
    }
}

/// How many files are below a directory; none if it is not there.
fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// Starts a registry that this test's `pod` knows.
pub(crate) fn start(t: &Test, name: &str) -> Option<Server> {
    let directory = t.path(name);
    fs::create_dir(&directory).unwrap();
    let server = server::start(&directory, None)?;
    configure(t, name, &json!({ "registry": server.host, "ca": directory.join("ca.crt") }));
    login(t, &server.host, server::PASSWORD);
    Some(server)
}

/// Writes a file of `registries.d`.
pub(crate) fn configure(t: &Test, name: &str, rule: &serde_json::Value) {
    let rules = t.local_config().join("registries.d");
    fs::create_dir_all(&rules).unwrap();
    fs::write(rules.join(format!("{name}.json")), rule.to_string()).unwrap();
}

/// Writes a file of `auth.d`.
pub(crate) fn login(t: &Test, host: &str, password: &str) {
    let logins = t.local_config().join("auth.d");
    fs::create_dir_all(&logins).unwrap();
    let login = json!({ "registries": [host], "user": server::USER, "password": password });
    let file = logins.join(format!("{}.json", host.replace(':', "-")));
    fs::write(&file, login.to_string()).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
