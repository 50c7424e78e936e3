//! The command line: what can be asked, and where it is answered.

mod inspect;
mod keys;
mod rotation;
mod usage;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use image_tools::convert::convert;
use image_tools::flatten::flatten;
use image_tools::name::{ImageName, Version};
use image_tools::oci::host_architecture;
use image_tools::reference::{NameReference, Source};
use image_tools::signing;
use image_tools::source::SourceImage;
use jiff::{Timestamp, ToSpan};
use std::path::PathBuf;

/// Our own failures.
const FAILED: u8 = 125;
/// The command line makes no sense.
const USAGE: u8 = 2;

/// Convert, sign, verify, inspect and unpack images
#[derive(Debug, clap::Parser)]
#[command(name = "image-tools", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a native image file made from another image
    #[command(
        after_help = "Example:\n  docker save redis:7 -o redis.tar\n  image-tools convert docker-archive:redis.tar redis.pod --name example.com/redis:7"
    )]
    Convert(Convert),
    /// Make a key pair: KEY.key (secret) and KEY.pub
    #[command(after_help = "Example:\n  image-tools keygen release")]
    Keygen(keys::Keygen),
    /// Sign a native image file, or a rotation; the signature becomes a part of it
    #[command(after_help = "Example:\n  image-tools sign --key release.key redis.pod")]
    Sign(keys::Sign),
    /// Write a rotation: the keys that shall count for a name prefix, to be signed by old and by new ones
    #[command(
        after_help = "Example:\n  image-tools rotation --prefix example.com --number 1 keys-1 new.pub\n  image-tools sign --key old.key keys-1\n  image-tools sign --key new.key keys-1\n  pod trust rotate keys-1"
    )]
    Rotation(rotation::Make),
    /// Check a native image file and its signature by a key
    #[command(after_help = "Example:\n  image-tools verify --key release.pub redis.pod")]
    Verify(keys::Verify),
    /// Show what an image is made of
    #[command(after_help = "Example:\n  image-tools inspect redis.pod --format=json")]
    Inspect(Inspect),
    /// Unpack all layers of an image into a directory
    #[command(after_help = "Example:\n  image-tools unpack redis.pod rootfs")]
    Unpack(Unpack),
}

#[derive(Debug, Args)]
struct Convert {
    /// docker-archive:FILE, oci-archive:FILE, oci:DIR[:TAG], FILE.aci or FILE.pod
    #[arg(value_parser = Source::parse)]
    source: Source,
    /// File to write; by convention it ends in .pod
    out: PathBuf,
    /// NAME[:VERSION] of the new image, to which signatures bind; default: what the source calls it
    #[arg(long, value_parser = name_and_version)]
    name: Option<(ImageName, Option<Version>)>,
}

#[derive(Debug, Args)]
struct Inspect {
    /// Image file, or any source that `convert` takes
    #[arg(value_parser = source_or_file)]
    source: Source,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
struct Unpack {
    /// Image file, or any source that `convert` takes
    #[arg(value_parser = source_or_file)]
    source: Source,
    /// Directory to make; if it exists, it must be empty
    directory: PathBuf,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), hint: None, code: FAILED }
    }
}

impl Failure {
    fn hinted(error: impl Into<anyhow::Error>, hint: Option<String>) -> Self {
        Self { error: error.into(), hint, code: FAILED }
    }
}

impl Arguments {
    /// The words as a command, else what to print of them or why they make no sense.
    pub(crate) fn read() -> Result<Self, Result<String, Failure>> {
        clap::Parser::try_parse().map_err(|error| usage::answer(&error))
    }

    pub(crate) fn verb(&self) -> &'static str {
        match self.command {
            Command::Convert(_) => "convert",
            Command::Keygen(_) => "keygen",
            Command::Sign(_) => "sign",
            Command::Rotation(_) => "rotation",
            Command::Verify(_) => "verify",
            Command::Inspect(_) => "inspect",
            Command::Unpack(_) => "unpack",
        }
    }
}

/// Does what was asked and returns what belongs on stdout.
pub(crate) fn run(arguments: &Arguments) -> Result<String, Failure> {
    match &arguments.command {
        Command::Convert(Convert { source, out, name }) => {
            remote(source)?;
            let id = convert(source, out, name.clone()).with_context(|| format!("`{source}`"))?;
            Ok(format!("{id}\n"))
        }
        Command::Keygen(keygen) => keys::keygen(keygen),
        Command::Sign(sign) => keys::sign(sign),
        Command::Rotation(make) => rotation::make(make),
        Command::Verify(verify) => keys::verify(verify),
        Command::Inspect(Inspect { source, format }) => {
            remote(source)?;
            let image = SourceImage::open(source, host_architecture())?;
            inspect::show(source, &image, matches!(format, Format::Json))
        }
        Command::Unpack(Unpack { source, directory }) => {
            remote(source)?;
            let image = SourceImage::open(source, host_architecture())?;
            flatten(&image, directory).with_context(|| format!("`{source}`"))?;
            Ok(String::new())
        }
    }
}

fn remote(source: &Source) -> Result<(), Failure> {
    if !matches!(source, Source::Registry(_) | Source::Url(_)) {
        return Ok(());
    }
    let error = anyhow::anyhow!("`{source}` is not on this machine");
    Err(Failure { error, hint: Some("get it with `pod fetch`, then `pod image export`".into()), code: USAGE })
}

fn name_and_version(text: &str) -> Result<(ImageName, Option<Version>), String> {
    match NameReference::parse(text) {
        Ok(NameReference { name, version, digest: None }) => Ok((name, version)),
        Ok(_) => Err("a new image has no digest yet".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A file without scheme and without known ending is taken for a native one.
fn source_or_file(text: &str) -> Result<Source, String> {
    match Source::parse(text) {
        Err(_) if !text.is_empty() && !text.contains("://") => Ok(Source::Pod(text.into())),
        result => result.map_err(|error| error.to_string()),
    }
}

/// When a signature or a key ends: a time, or a number of days (`90d`).
fn expiry(text: &str) -> Result<Timestamp, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let time = match days {
        Some(days) => Timestamp::now().checked_add((i64::from(days) * 24).hours()),
        None => text.parse(),
    };
    time.map_err(|error| error.to_string())
}

fn hinted(error: signing::SigningError) -> Failure {
    let hint = error.hint();
    Failure::hinted(error, hint)
}
