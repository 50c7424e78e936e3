//! What each fuzz target does with its bytes. The same functions replay the corpus of past findings in an ordinary test.
//!
//! A target fails by panicking: on a crash, on an endless loop (libFuzzer's time limit), or on a law that does not hold,
//! such as "what was parsed and written again parses to the same".

#[path = "../../../image-tools/tests/decision/cases.rs"]
mod cases;
#[path = "../../../image-tools/tests/decision/compare.rs"]
mod compare;
mod decision;
#[path = "../../../image-tools/tests/decision/reading.rs"]
mod reading;

use image_tools::archive::Archive;
use image_tools::config::ImageConfig;
use image_tools::limits::Limits;
use image_tools::minisign::Minisig;
use image_tools::oci::Document;
use image_tools::reference::Reference;
use image_tools::signature::Signature;
use image_tools::statement::Statement;
use image_tools::trust::Rule;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A target's name, as in `cargo xtask fuzz NAME` and `corpus/NAME`, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets: those below, and those that lie beside what they reach into.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    IMAGES.iter().chain(stage1_kvm::hostile::TARGETS).chain(stage2::hostile::TARGETS)
}

/// Of what this crate can reach by itself.
const IMAGES: &[Target] = &[
    ("archive", archive),
    ("config", config),
    ("contract", contract),
    ("decision", decision::decision),
    ("docker_config", docker_config),
    ("import", decision::import),
    ("manifest", manifest),
    ("policy", policy),
    ("reference", reference),
    ("signature", signature),
    ("statement", statement),
    ("trust_decision", trust_decision),
    ("unpack", unpack),
];

/// A reference is shown as it can be typed.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(parsed) = Reference::parse(text) else { return };
    let shown = parsed.to_string();
    assert_eq!(Reference::parse(&shown).as_ref(), Ok(&parsed), "`{text}` is shown as `{shown}`");
}

/// A manifest or index is one of the two, whatever it was announced as.
pub fn manifest(bytes: &[u8]) {
    let _ = Document::parse(bytes, None); // Refusing is fine; only a panic is a finding.
    let manifest = Document::parse(bytes, Some(image_tools::oci::MANIFEST)).is_ok();
    let index = Document::parse(bytes, Some(image_tools::oci::INDEX)).is_ok();
    assert!(!(manifest && index), "a document passes for a manifest and for an index");
}

/// A native configuration survives being written.
pub fn config(bytes: &[u8]) {
    let Ok(parsed) = ImageConfig::parse(bytes) else { return };
    let again = ImageConfig::parse(&parsed.to_bytes()).expect("what we write we can read");
    assert_eq!(again.to_bytes(), parsed.to_bytes());
}

/// A foreign configuration never panics.
pub fn docker_config(bytes: &[u8]) {
    let _ = image_tools::source::docker_config::parse(bytes); // Refusing is fine.
}

/// A statement has one spelling.
pub fn statement(bytes: &[u8]) {
    let Ok(parsed) = Statement::parse(bytes) else { return };
    assert_eq!(parsed.to_text().as_bytes(), bytes, "a second spelling of one statement");
}

/// Signature files and minisign's own.
pub fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(parsed) = Minisig::parse(text) {
        Minisig::parse(&parsed.to_text()).expect("what we write we can read");
    }
    if let Ok(signatures) = Signature::from_file(text) {
        Signature::from_file(&Signature::to_file(&signatures)).expect("what we write we can read");
    }
}

/// A trust rule survives being written, so that editing one cannot loosen it.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(rule) = Rule::parse(text) else { return };
    let again = Rule::parse(&rule.to_text()).expect("what we write we can read");
    assert_eq!(again.to_text(), rule.to_text());
}

/// A case of the trust decision is decided as the second reading of its documentation says.
pub fn trust_decision(bytes: &[u8]) {
    let scenario = cases::Scenario::of(bytes);
    if let Err(what) = compare::compare(&scenario) {
        panic!("{what}\n{scenario:#?}");
    }
}

/// What other processes may have put into the contract's files and sockets.
pub fn contract(bytes: &[u8]) {
    let _ = contract::json::parse::<contract::pod::Pod>(bytes); // Refusing is fine, here and below.
    let _ = contract::json::parse::<contract::host::Host>(bytes);
    let _ = serde_json::from_slice::<contract::stage1::Stage1>(bytes);
    let _ = serde_json::from_slice::<contract::control::Request>(bytes);
    let _ = serde_json::from_slice::<contract::channel::Event>(bytes);
}

/// The tar reader alone: every entry, every body, to the end.
pub fn archive(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    while let Ok(Some(_)) = archive.next_entry() {
        if archive.body_bytes(1 << 20).is_err() {
            return;
        }
    }
}

/// The unpacker: whatever the bytes are, nothing outside its directory changes: no name, content, owner, mode or time, and no
/// hard link is made from it.
pub fn unpack(bytes: &[u8]) {
    let outer = tempfile::tempdir().expect("a temporary directory");
    let root = outer.path().join("root");
    std::fs::create_dir(&root).expect("a fresh directory");
    std::fs::create_dir(outer.path().join("etc")).expect("a fresh directory");
    std::fs::write(outer.path().join("etc/passwd"), "canary").expect("a fresh file");
    std::fs::write(outer.path().join("x"), "canary").expect("a fresh file");
    let before = canaries(outer.path());
    let directory = std::fs::File::open(&root).expect("it is there");
    let limits = Limits { bytes: 1 << 20, entries: 1000, ..Limits::default() };
    let _ = image_tools::unpack::unpack(directory.as_fd(), bytes, &limits); // Refusing is fine.
    assert_eq!(canaries(outer.path()), before, "the unpacker left its directory");
}

/// All that a directory holds, but for what is in its `root`.
fn canaries(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let (path, data) = (entry.path(), entry.metadata().expect("it is there"));
        if entry.file_name() == "root" {
            // Its mode, owner and time are the image's to say.
            found.push(format!("{} {} {}", path.display(), data.ino(), data.is_dir()));
            continue;
        }
        let identity = (data.ino(), data.mode(), data.nlink(), data.uid(), data.gid(), data.mtime_nsec());
        found.push(format!("{} {identity:?} {:?}", path.display(), std::fs::read(&path).ok()));
        if data.is_dir() {
            found.extend(canaries(&path));
        }
    }
    found.sort();
    found
}
