//! Small images for tests.

use std::fs;
use std::path::{Path, PathBuf};

use image_tools::digest::Digest;
use image_tools::oci::{self, host_architecture};

/// An OCI layout with two layers.
pub(crate) fn layout(path: &Path, content: &str) -> PathBuf {
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
        host_architecture(),
        diff_ids.join(",")
    );
    let config = store(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","config":{config},"layers":[{1}]}}"#,
        oci::MANIFEST,
        layers.join(",")
    );
    let manifest = store(manifest.as_bytes(), oci::MANIFEST);
    fs::write(path.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#)).expect("index");
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("marker");
    path.to_owned()
}
