//! The Debian image, as a docker-archive and as an oci-archive, made by debootstrap and buildah.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tests::Outcome;

/// Both archives of the one image.
pub(crate) struct Archives {
    pub(crate) docker: PathBuf,
    pub(crate) oci: PathBuf,
}

/// What decides the content; another recipe has another place in the cache.
const PACKAGES: &str = "iputils-ping,redis-server,nginx-light,postgresql";
const SUITE: &str = "bookworm";
/// Counted up when the steps below change.
const RECIPE: u32 = 3;

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let name = tests::image::digest(format!("{RECIPE} {SUITE} {PACKAGES}").as_bytes());
    base.join("pod-tests").join(format!("debian-{}", &name[7..23]))
}

/// The archives, made if this machine does not have them.
pub(crate) fn archives() -> &'static Archives {
    static ARCHIVES: OnceLock<Archives> = OnceLock::new();
    ARCHIVES.get_or_init(|| {
        let directory = cache();
        if !directory.exists() {
            let parent = directory.parent().expect("it has a name");
            fs::create_dir_all(parent).expect("the user's cache directory");
            let scratch = tempfile::tempdir_in(parent).expect("a directory in the cache");
            let made = make(scratch.path());
            fs::rename(made, &directory).expect("both are in the cache");
        }
        Archives { docker: directory.join("docker.tar"), oci: directory.join("oci.tar") }
    })
}

fn run(command: &mut Command) -> String {
    let outcome = Outcome::of_at_most(command, std::time::Duration::from_secs(900));
    outcome.assert_exit(0).stdout.trim().to_owned()
}

fn make(scratch: &Path) -> PathBuf {
    let root = scratch.join("root");
    let include = format!("--include={PACKAGES}");
    run(Command::new("debootstrap").args(["--variant=minbase", &include, SUITE]).arg(&root));
    // One package stays, so that apt has something to install without a network.
    let kept = root.join("srv/packages");
    fs::create_dir(&kept).expect("a fresh root has none");
    let archives = root.join("var/cache/apt/archives");
    for entry in fs::read_dir(&archives).expect("apt's cache").flatten() {
        if entry.file_name().to_string_lossy().starts_with("iputils-ping_") {
            fs::copy(entry.path(), kept.join("iputils-ping.deb")).expect("copy the package");
        }
        let _ = fs::remove_file(entry.path()); // `partial` is a directory and stays.
    }
    for name in ["usr/share/locale", "usr/share/info", "var/lib/apt/lists"] {
        let _ = fs::remove_dir_all(root.join(name)); // Some are not there in this variant.
    }
    let builder = Builder { storage: scratch.join("storage") };
    builder.layers(&root);
    let made = scratch.join("made");
    fs::create_dir(&made).expect("a fresh directory");
    for (kind, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let target = format!("{kind}:{}:debian:3", made.join(file).display());
        run(builder.buildah().args(["push", "--quiet", "debian:3", &target]));
    }
    made
}

/// buildah with storage of its own.
struct Builder {
    storage: PathBuf,
}

impl Builder {
    fn buildah(&self) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.storage.join("root")).arg("--runroot").arg(self.storage.join("run"));
        command.arg("--storage-driver=overlay");
        command
    }

    /// Three layers: the root; a user, and a directory made anew; files of the first layer deleted.
    fn layers(&self, root: &Path) {
        let container = run(self.buildah().args(["from", "scratch"]));
        run(self.buildah().args(["add", "--quiet", &container]).arg(root).arg("/"));
        run(self.buildah().args(["config", "--cmd", "/bin/bash", "--env", "FROM=debian", &container]));
        self.commit(&container, "debian:1");
        self.layer("debian:1", "debian:2", |root| {
            run(Command::new("chroot").arg(root).args(["useradd", "--create-home", "--uid=1234", "alice"]));
            fs::remove_dir_all(root.join("usr/share/doc")).expect("Debian has it");
            fs::create_dir(root.join("usr/share/doc")).expect("it was removed");
            fs::write(root.join("usr/share/doc/new"), "new").expect("a fresh directory");
        });
        self.layer("debian:2", "debian:3", |root| {
            fs::remove_dir_all(root.join("usr/share/man")).expect("Debian has it");
            fs::remove_file(root.join("etc/issue")).expect("Debian has it");
        });
    }

    fn layer(&self, from: &str, to: &str, change: impl FnOnce(&Path)) {
        let container = run(self.buildah().args(["from", from]));
        let root = run(self.buildah().args(["mount", &container]));
        change(Path::new(&root));
        run(self.buildah().args(["umount", &container]));
        self.commit(&container, to);
    }

    fn commit(&self, container: &str, name: &str) {
        run(self.buildah().args(["commit", "--quiet", container, name]));
        run(self.buildah().args(["rm", container]));
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // buildah leaves its storage mounted on itself.
        let _ = self.buildah().args(["rm", "--all"]).output(); // Nothing of this matters but the mount.
        let _ = nix::mount::umount(&self.storage.join("root/overlay"));
    }
}
