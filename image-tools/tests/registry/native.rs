//! Signed native files for tests.

use std::fs;
use std::path::Path;

use image_tools::convert::convert;
use image_tools::digest::Digest;
use image_tools::key::SecretKey;
use image_tools::name::{ImageName, Version};
use image_tools::oci::host_architecture;
use image_tools::reference::Source;
use image_tools::signature::Signature;
use image_tools::signing;
use image_tools::source::{Content, SourceImage, parse_native};
use image_tools::statement::Subject;

use crate::layout;

/// The bytes of a native file and the text of its `.sig`.
pub(crate) fn image(directory: &Path, key: &SecretKey, name: &str, content: &str) -> (Vec<u8>, String) {
    let from = layout::layout(&directory.join(format!("layout-{content}")), content);
    let file = directory.join("made.pod");
    let (name, version) = (ImageName::parse(name).expect("name"), Version::parse("1.0").expect("version"));
    let source = Source::parse(&format!("oci:{}", from.display())).expect("source");
    convert(&source, &file, Some((name, Some(version)))).expect("convert");
    let opened = SourceImage::open(&Source::Pod(file.clone()), host_architecture()).expect("own file");
    let Content::Native { manifest, config } = &opened.content else { panic!("native") };
    let (_, config) = parse_native(manifest, config).expect("own documents");
    let subject = Subject::of(config, Digest::of(manifest));
    let signature = signing::sign(key, &subject, jiff::Timestamp::now(), None).expect("sign");
    (fs::read(&file).expect("file"), Signature::to_file(&[signature]))
}
