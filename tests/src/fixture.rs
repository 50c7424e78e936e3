//! One test's world: directories, keys, images, and the commands that use them.

use crate::apps::PodBuilder;
use crate::image::{Layer, Recipe, digest};
use crate::leftovers::{self, Marker};
use crate::outcome::Outcome;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// The name under which the probe's image is signed and stored.
pub const PROBE: &str = "example.com/probe:1";

/// A signing key made by image-tools.
#[derive(Clone, Debug)]
pub struct Key {
    /// Path of the secret half.
    pub secret: PathBuf,
    /// Path of the public half.
    pub public: PathBuf,
}

/// The world of one test on one stage1.
pub struct Test {
    stage1: &'static str,
    directory: TempDir,
    marker: Marker,
    finished: AtomicBool,
}

/// Where cargo put the executables: this test program lies in `deps` beside them.
pub fn executables() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let directory = own.parent().and_then(Path::parent).expect("test programs lie in `deps`").to_owned();
    let pod = directory.join("pod");
    assert!(pod.exists(), "`{}` is not built; run `cargo xtask test`", pod.display());
    directory
}

impl Test {
    /// An empty world; `name` shows in its paths.
    pub fn new(stage1: &'static str, name: &str) -> Self {
        let short: String = name.chars().take(24).collect();
        let directory =
            tempfile::Builder::new().prefix(&format!("pod-{short}-")).tempdir().expect("a temporary directory");
        for name in ["etc", "usr", "scratch"] {
            fs::create_dir(directory.path().join(name)).expect("a fresh directory");
        }
        let marker = Marker::new(directory.path());
        Self { stage1, directory, marker, finished: false.into() }
    }

    /// `namespaces` or `kvm`.
    pub const fn stage1(&self) -> &'static str {
        self.stage1
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The admin's configuration directory.
    pub fn local_config(&self) -> PathBuf {
        self.directory.path().join("etc")
    }

    /// The vendor's configuration directory.
    pub fn system_config(&self) -> PathBuf {
        self.directory.path().join("usr")
    }

    /// A path for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("scratch").join(name)
    }

    /// One of our executables, marked as this test's.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(executables().join(name));
        self.marker.set(&mut command);
        command.current_dir(self.directory.path().join("scratch"));
        command
    }

    /// `pod` with this test's directories, and then `words`.
    pub fn pod_command<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Command {
        let mut command = self.program("pod");
        command.arg("--dir").arg(self.data());
        command.arg("--local-config").arg(self.local_config());
        command.arg("--system-config").arg(self.system_config());
        command.args(words);
        command
    }

    /// Runs `pod` with this test's directories, and then `words`.
    pub fn cli<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Outcome {
        Outcome::of(&mut self.pod_command(words))
    }

    /// Runs `image-tools`.
    pub fn tools<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, words: I) -> Outcome {
        Outcome::of(self.program("image-tools").args(words))
    }

    /// A pod of probe apps to be put together.
    pub fn pod(&self) -> PodBuilder<'_> {
        PodBuilder::new(self)
    }

    /// Makes a key pair.
    pub fn key(&self, name: &str) -> Key {
        make_key(&self.path(name))
    }

    /// Trusts a key for a prefix, as an admin would.
    pub fn trust(&self, prefix: &str, key: &Key) {
        self.cli(["trust", "add", "--prefix", prefix, &key.public.to_string_lossy()]).assert_ok();
    }

    /// Converts a recipe into a native image, unsigned.
    pub fn convert(&self, recipe: &Recipe, name: &str) -> PathBuf {
        let scratch = tempfile::tempdir_in(self.directory.path()).expect("a temporary directory");
        let layout = scratch.path().join("layout");
        recipe.oci_layout(&layout).expect("write the layout");
        let file = self.path(&format!("{}.pod", name.replace(['/', ':'], "-")));
        convert(&format!("oci:{}", layout.display()), &file, name);
        file
    }

    /// Signs a native image.
    pub fn sign(&self, image: &Path, key: &Key) {
        sign(image, key);
    }

    /// A native image of this recipe, signed by a key that this test trusts for the image's name.
    pub fn signed(&self, recipe: &Recipe, name: &str) -> PathBuf {
        let file = self.convert(recipe, name);
        let common = common();
        sign(&file, &common.key);
        self.trust(name.split(':').next().unwrap_or(name), &common.key);
        file
    }

    /// Fetches the signed probe image into the store, once, and trusts its key.
    pub fn probe(&self) -> &'static str {
        if !self.local_config().join("trust.d").exists() {
            let common = common();
            self.trust("example.com/probe", &common.key);
        }
        if !self.data().join("images").exists() {
            self.cli(["fetch".as_ref(), common().image.as_os_str()]).assert_ok();
        }
        PROBE
    }

    /// The signed probe image as a file, and the key that signed it.
    pub fn probe_file(&self) -> (PathBuf, Key) {
        (common().image.clone(), common().key.clone())
    }

    /// Runs gc, and fails if anything of this test's pods is left on the machine.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
        let uuids = self.uuids();
        if self.data().join("pods").exists() {
            self.cli(["gc", "--grace-period=0s", "--expire-prepared=0s"]).assert_ok();
        }
        let left = self.leftovers(&uuids);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// A line for everything on this machine that is left of these pods and of this test's commands.
    pub fn leftovers(&self, uuids: &[String]) -> Vec<String> {
        leftovers::find(self.directory.path(), uuids, &self.marker)
    }

    /// UUIDs of all pods in the data directory, whatever their phase.
    pub fn uuids(&self) -> Vec<String> {
        let phases = fs::read_dir(self.data().join("pods")).into_iter().flatten().flatten();
        let pods = phases.flat_map(|phase| fs::read_dir(phase.path()).into_iter().flatten().flatten());
        pods.map(|pod| pod.file_name().to_string_lossy().into_owned()).filter(|name| name.len() == 36).collect()
    }

    /// The directory of a pod, in whatever phase it is.
    pub fn pod_directory(&self, uuid: &str) -> PathBuf {
        let phases = contract::dir::Phase::ALL.iter();
        let mut paths = phases.map(|phase| self.data().join("pods").join(phase.directory()).join(uuid));
        paths.find(|path| path.exists()).unwrap_or_else(|| panic!("no pod {uuid}"))
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) {
            // The body panicked: its pods are ended and swept, so that one failure is not followed by others.
            self.marker.kill_all();
            let _ = self.pod_command(["gc", "--grace-period=0s", "--expire-prepared=0s"]).output();
        }
    }
}

/// What all tests of one build share: the probe's image and the key that signed it.
struct Common {
    image: PathBuf,
    key: Key,
}

/// Makes what all tests of one build share, unless it is there.
pub(crate) fn share() {
    common();
}

fn common() -> &'static Common {
    static COMMON: OnceLock<Common> = OnceLock::new();
    COMMON.get_or_init(|| {
        let probe = fs::read(executables().join("probe")).expect("the probe is built");
        let tools = fs::read(executables().join("image-tools")).expect("image-tools is built");
        let name = digest(&[digest(&probe), digest(&tools)].concat().into_bytes());
        let directory = executables().join("tests-cache").join(&name[7..23]);
        if !directory.exists() {
            make_common(&directory, &probe);
        }
        let key = Key { secret: directory.join("test.key"), public: directory.join("test.pub") };
        Common { image: directory.join("probe.pod"), key }
    })
}

/// Makes the shared files under another name and renames, because several test programs may do it at once.
fn make_common(directory: &Path, probe: &[u8]) {
    let parent = directory.parent().expect("it has a name");
    fs::create_dir_all(parent).expect("a directory beside the executables");
    let scratch = tempfile::tempdir_in(parent).expect("a temporary directory");
    let layout = scratch.path().join("layout");
    probe_recipe(probe).oci_layout(&layout).expect("write the layout");
    let key = make_key(&scratch.path().join("test"));
    let image = scratch.path().join("probe.pod");
    convert(&format!("oci:{}", layout.display()), &image, PROBE);
    sign(&image, &key);
    fs::remove_dir_all(layout).expect("it was made just now");
    // Another process may have been faster; its files are as good.
    if fs::rename(scratch.path(), directory).is_ok() {
        let _ = scratch.keep();
    }
}

/// The probe's program, for images of a test's own.
pub fn probe_bytes() -> Vec<u8> {
    fs::read(executables().join("probe")).expect("the probe is built")
}

/// The files of the ordinary probe image: the probe, users, and an `/etc` and `/tmp` as images have them.
pub fn probe_layer(probe: &[u8]) -> Layer {
    let passwd = b"root:x:0:0:root:/root:/probe\nalice:x:1000:1000:Alice:/home/alice:/probe\n";
    let group = b"root:x:0:\nalice:x:1000:\naudio:x:29:alice\nstaff:x:50:alice\n";
    Layer::new()
        .directory("etc", 0o755)
        .file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, group)
        .directory("root", 0o700)
        .directory("tmp", 0o1777)
        .directory_of("home/alice", 0o750, 1000, 1000)
        .file_of("home/alice/owned", 0o640, 1000, 50, b"of alice")
        .directory("srv", 0o755)
        .file("srv/from-image", 0o644, b"image content")
        .file("probe", 0o755, probe)
}

/// The ordinary probe image.
pub fn probe_recipe(probe: &[u8]) -> Recipe {
    let mut recipe = Recipe::new([probe_layer(probe)]);
    recipe.entrypoint = vec!["/probe".into()];
    recipe.environment = vec!["PATH=/usr/bin:/bin:/".into(), "FROM_IMAGE=yes".into()];
    recipe
}

fn tools() -> Command {
    Command::new(executables().join("image-tools"))
}

fn make_key(path: &Path) -> Key {
    Outcome::of(tools().arg("keygen").arg(path)).assert_ok();
    Key { secret: path.with_extension("key"), public: path.with_extension("pub") }
}

fn convert(source: &str, file: &Path, name: &str) {
    Outcome::of(tools().args(["convert", source]).arg(file).args(["--name", name])).assert_ok();
}

fn sign(image: &Path, key: &Key) {
    Outcome::of(tools().args(["sign", "--key"]).arg(&key.secret).arg(image)).assert_ok();
}
