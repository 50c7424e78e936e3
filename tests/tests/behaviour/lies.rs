//! Sources that lie: sizes, digests and types that are not what the documents say; and sources cut short by a kill. What
//! was refused leaves the store as it was.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tests::image::digest;
use tests::{Test, probe_bytes, probe_recipe, stage_test};

/// A name, and what is made untrue.
type Lie<T> = (&'static str, fn(&mut T));

/// An OCI layout whose documents can be changed: each change gives new digests upwards, so that only the lie is wrong.
struct Layout {
    directory: PathBuf,
    manifest: Value,
    configuration: Value,
}

impl Layout {
    fn new(t: &Test, name: &str) -> Self {
        let directory = t.path(name);
        probe_recipe(&probe_bytes()).oci_layout(&directory).unwrap();
        let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let blob = |digest: &Value| directory.join("blobs/sha256").join(&digest.as_str().unwrap()[7..]);
        let index = read(directory.join("index.json"));
        let manifest = read(blob(&index["manifests"][0]["digest"]));
        let configuration = read(blob(&manifest["config"]["digest"]));
        Self { manifest, configuration, directory }
    }

    fn write_blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        fs::write(self.directory.join("blobs/sha256").join(&digest[7..]), bytes).unwrap();
        digest
    }

    /// Writes the configuration, and a manifest that describes it truly.
    fn write_configuration(&mut self) {
        let bytes = self.configuration.to_string();
        self.manifest["config"]["digest"] = json!(self.write_blob(bytes.as_bytes()));
        self.manifest["config"]["size"] = json!(bytes.len());
    }

    /// Writes the manifest and an index of it, whose descriptor `change` may spoil.
    fn write(&self, change: impl FnOnce(&mut Value)) -> String {
        let bytes = self.manifest.to_string();
        let mut descriptor = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.write_blob(bytes.as_bytes()),
            "size": bytes.len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        });
        change(&mut descriptor);
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
        format!("oci:{}", self.directory.display())
    }
}

fn store_entries(t: &Test) -> Vec<String> {
    fn walk(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // Locks and the directories themselves may come to be; content may not.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            } else if entry.metadata().is_ok_and(|metadata| metadata.len() > 0) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(&t.data().join("images"), &mut found);
    found.sort();
    found
}

#[track_caller]
fn refused(t: &Test, name: &str, source: &str) {
    let before = store_entries(t);
    let outcome = t.cli(["--insecure-options=image", "fetch", source]);
    assert_eq!(outcome.code, 125, "{name}: {outcome}");
    assert!(outcome.stderr.starts_with("pod: fetch: ") && !outcome.stderr.contains("panicked"), "{name}: {outcome}");
    assert_eq!(store_entries(t), before, "{name} left something in the store");
}

stage_test!(an_honest_layout_is_taken, |t| {
    let mut layout = Layout::new(t, "honest");
    layout.write_configuration();
    let source = layout.write(|_| {});
    t.cli(["--insecure-options=image", "fetch", &source]).assert_exit(0);
});

// Size lies in both directions, and content that only begins as its digest says.
stage_test!(descriptors_that_lie_are_refused, |t| {
    let changes: [Lie<Layout>; 9] = [
        ("layer-short", |layout| layout.manifest["layers"][0]["size"] = json!(512)),
        ("layer-long", |layout| layout.manifest["layers"][0]["size"] = json!(1_u64 << 40)),
        ("layer-zero", |layout| layout.manifest["layers"][0]["size"] = json!(0)),
        ("layer-negative", |layout| layout.manifest["layers"][0]["size"] = json!(-1)),
        ("layer-digest", |layout| layout.manifest["layers"][0]["digest"] = json!(digest(b"other"))),
        ("layer-path", |layout| layout.manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd")),
        ("layer-algorithm", |layout| {
            layout.manifest["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e");
        }),
        ("config-short", |layout| layout.manifest["config"]["size"] = json!(1)),
        ("config-digest", |layout| layout.manifest["config"]["digest"] = json!(digest(b"other"))),
    ];
    for (name, change) in changes {
        let mut layout = Layout::new(t, name);
        change(&mut layout);
        let source = layout.write(|_| {});
        refused(t, name, &source);
    }
    let mut layout = Layout::new(t, "diff-id");
    layout.configuration["rootfs"]["diff_ids"][0] = json!(digest(b"other"));
    layout.write_configuration();
    let source = layout.write(|_| {});
    refused(t, "diff-id", &source);
    let changes: [Lie<Value>; 3] = [
        ("manifest-size", |descriptor| descriptor["size"] = json!(descriptor["size"].as_u64().unwrap() + 1)),
        ("manifest-digest", |descriptor| descriptor["digest"] = json!(digest(b"other"))),
        ("manifest-traversal", |descriptor| descriptor["digest"] = json!("sha256:..%2f..%2fx")),
    ];
    for (name, change) in changes {
        let source = Layout::new(t, name).write(change);
        refused(t, name, &source);
    }
});

stage_test!(a_blob_changed_in_place_is_refused, |t| {
    for (name, which) in [("config", "config"), ("layer", "layers")] {
        let layout = Layout::new(t, name);
        let descriptor = if which == "layers" { &layout.manifest["layers"][0] } else { &layout.manifest["config"] };
        let file = layout.directory.join("blobs/sha256").join(&descriptor["digest"].as_str().unwrap()[7..]);
        let mut bytes = fs::read(&file).unwrap();
        // The last byte: whoever compares a prefix is satisfied.
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        let source = layout.write(|_| {});
        refused(t, name, &source);
    }
});

// CVE-2021-41190: one document that is a manifest to one reader and an index to another.
stage_test!(cve_2021_41190_documents_of_two_types_are_refused, |t| {
    let changes: [Lie<Layout>; 4] = [
        ("both", |layout| layout.manifest["manifests"] = json!([])),
        ("type", |layout| layout.manifest["mediaType"] = json!("application/vnd.oci.image.index.v1+json")),
        ("schema", |layout| layout.manifest["schemaVersion"] = json!(1)),
        ("config-type", |layout| {
            layout.manifest["config"]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
        }),
    ];
    for (name, change) in changes {
        let mut layout = Layout::new(t, name);
        change(&mut layout);
        let source = layout.write(|_| {});
        refused(t, name, &source);
    }
    // The descriptor says an index; the document is a manifest.
    let source = Layout::new(t, "descriptor").write(|descriptor| {
        descriptor["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    });
    refused(t, "descriptor", &source);
});

stage_test!(another_machines_image_is_refused, |t| {
    for (field, value) in [("architecture", "riscv64"), ("os", "plan9")] {
        let mut layout = Layout::new(t, field);
        layout.configuration[field] = json!(value);
        layout.write_configuration();
        let source = layout.write(|_| {});
        let stage1 = format!("--stage1={}", t.stage1());
        let outcome = t.cli(["--insecure-options=image", "run", &stage1, "--net=none", &source, "--", "true"]);
        outcome.assert_refused(125, value);
    }
});

// CVE-2021-20291 and its like: whoever dies holding a lock must not stop the next one; what it left is not seen.
stage_test!(cve_2021_20291_a_killed_fetch_leaves_a_store_that_works, |t| {
    let layout = Layout::new(t, "layout");
    let source = layout.write(|_| {});
    for delay in [0, 1, 2, 4, 6, 8, 10, 15, 20, 30, 50] {
        let mut command = t.pod_command(["--insecure-options=image", "fetch", &source]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill(); // It may have been faster.
        child.wait().unwrap();
        let listed = t.cli(["image", "list", "--format=json"]);
        listed.assert_exit(0);
    }
    let id = t.cli(["--insecure-options=image", "fetch", &source]).assert_exit(0).stdout.trim().to_owned();
    let stage1 = format!("--stage1={}", t.stage1());
    let run = ["--insecure-options=image", "run", &stage1, "--net=none", &id, "--", "print", "whole"];
    t.cli(run).assert_exit(0).assert_stdout("whole");
});

stage_test!(two_fetches_of_one_image_share_the_store, |t| {
    let layout = Layout::new(t, "layout");
    let source = layout.write(|_| {});
    let fetch = || {
        let mut command = t.pod_command(["--insecure-options=image", "fetch", &source]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..6).map(|_| fetch()).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for output in &outputs {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, outputs[0].stdout);
    }
});
