//! `image-tools keygen`, `sign` and `verify`.

use super::Failure;
use anyhow::{Context, anyhow};
use clap::Args;
use image_tools::convert::check_layers;
use image_tools::digest::Digest;
use image_tools::native::{NativeFile, with_signature};
use image_tools::oci::host_architecture;
use image_tools::reference::{NameReference, Source};
use image_tools::signing::{self, ask_password, read_public, read_secret};
use image_tools::source::{Content, SourceImage, parse_native};
use image_tools::statement::Subject;
use image_tools::trust::{NO_MARKS, Policy, Question, TrustDirs};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// KEY.key and KEY.pub are written; neither may exist
    key: PathBuf,
    /// Encrypt the secret key with a password asked for on the terminal
    #[arg(long)]
    password: bool,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// Secret key
    #[arg(long, value_name = "KEY.key")]
    key: PathBuf,
    /// The signature counts until this time (RFC 3339), or for so many days (`90d`)
    #[arg(long, value_name = "TIME", value_parser = super::expiry)]
    expires: Option<Timestamp>,
    /// Sign the image under another name than its own, such as that of a tag at a registry
    #[arg(long, value_name = "NAME[:VERSION]", value_parser = name)]
    name: Option<NameReference>,
    /// Native image file, or what `rotation` wrote
    image: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Public key
    #[arg(long, value_name = "KEY.pub")]
    key: PathBuf,
    /// Native image file
    image: PathBuf,
}

pub(super) fn keygen(arguments: &Keygen) -> Result<String, Failure> {
    let password = if arguments.password {
        let first = ask_password("password: ").context("ask for the password")?;
        let second = ask_password("again: ").context("ask for the password")?;
        if first != second {
            return Err(anyhow!("the two passwords differ").into());
        }
        Some(first)
    } else {
        None
    };
    let key = signing::keygen(&arguments.key, password.as_deref().map(String::as_str)).map_err(super::hinted)?;
    Ok(format!("{}\n", key.id()))
}

pub(super) fn sign(arguments: &Sign) -> Result<String, Failure> {
    let key = read_secret(&arguments.key, || ask_password("password: ")).map_err(super::hinted)?;
    if super::rotation::is_one(&arguments.image) {
        let what = match (arguments.expires, &arguments.name) {
            (None, None) => return super::rotation::sign(&arguments.image, &key),
            (Some(_), _) => "when it expires",
            (None, Some(_)) => "what it is about",
        };
        return Err(Failure { code: super::USAGE, ..anyhow!("a rotation says itself {what}").into() });
    }
    let (image, manifest, config) = open(&arguments.image)?;
    let (parsed_manifest, parsed) = parse_native(&manifest, &config)?;
    let mut subject = subject(&manifest, &config)?;
    if let Some(name) = &arguments.name {
        (subject.name, subject.version) = (name.name.clone(), name.version.clone());
    }
    let signature = signing::sign(&key, &subject, Timestamp::now(), arguments.expires).map_err(super::hinted)?;
    let signatures = with_signature(&image.signatures, signature);
    let layers: Vec<_> = image.layers.iter().map(|layer| layer.extent.clone()).collect();
    NativeFile {
        manifest: &manifest,
        config: &config,
        parsed: (&parsed_manifest, &parsed),
        signatures: &signatures,
        layers: &layers,
    }
    .write(&arguments.image)?;
    Ok(format!("{} {}\n", subject.manifest, key.id()))
}

pub(super) fn verify(arguments: &Verify) -> Result<String, Failure> {
    let key = read_public(&arguments.key).map_err(super::hinted)?;
    let (image, manifest, config) = open(&arguments.image)?;
    let subject = subject(&manifest, &config)?;
    let id = key.id();
    // The key is trusted for this one name, and nothing else is.
    let dirs = TrustDirs::built_in_only().with_built_in(subject.name.as_str(), key)?;
    let question = Question {
        asked: None,
        subject: &subject,
        id: None,
        came: &[],
        signatures: &image.signatures,
        marks: NO_MARKS,
        now: Timestamp::now(),
    };
    Policy::load(&dirs).judge(&question).map_err(|refusal| Failure::hinted(refusal, None))?;
    check_layers(&image)?;
    Ok(format!("{} {subject} {id}\n", subject.manifest))
}

fn open(path: &Path) -> Result<(SourceImage, Vec<u8>, Vec<u8>), Failure> {
    let image = SourceImage::open(&Source::Pod(path.to_owned()), host_architecture())?;
    match &image.content {
        Content::Native { manifest, config } => {
            let (manifest, config) = (manifest.clone(), config.clone());
            Ok((image, manifest, config))
        }
        Content::Foreign(_) => Err(anyhow!("`{}` is not a native image", path.display()).into()),
    }
}

fn subject(manifest: &[u8], config: &[u8]) -> Result<Subject, Failure> {
    Ok(Subject::of(parse_native(manifest, config)?.1, Digest::of(manifest)))
}

fn name(text: &str) -> Result<NameReference, String> {
    match NameReference::parse(text) {
        Ok(NameReference { digest: Some(_), .. }) => Err("a signature names the digest by itself".to_owned()),
        Ok(name) => Ok(name),
        Err(error) => Err(error.to_string()),
    }
}
