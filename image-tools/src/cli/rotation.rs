//! `image-tools rotation`, and `image-tools sign` of what it made.
//!
//! Holders of old and of new keys are often different people at different places, so the text is made once, unsigned, and
//! passed from one to the next; each adds a signature.

use super::Failure;
use anyhow::Context;
use clap::Args;
use image_tools::key::SecretKey;
use image_tools::signing::read_public;
use image_tools::trust::{Prefix, Rotation};
use jiff::Timestamp;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct Make {
    /// Name prefix whose keys change
    #[arg(long, value_parser = prefix)]
    prefix: Prefix,
    /// Which rotation of this prefix it is; a number that is not higher than the last one is refused
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    number: u64,
    /// How many of the new keys must sign an image from then on
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    threshold: usize,
    /// It is not applied after this time (RFC 3339), or after so many days (`90d`)
    #[arg(long, value_name = "TIME", value_parser = super::expiry)]
    expires: Option<Timestamp>,
    /// File to write; it may not exist
    file: PathBuf,
    /// All keys that count from then on; an old one that stays is named, too
    #[arg(value_name = "KEY.pub", required = true)]
    keys: Vec<PathBuf>,
}

pub(super) fn make(arguments: &Make) -> Result<String, Failure> {
    let Make { prefix, number, threshold, expires, file, keys } = arguments;
    let keys = keys.iter().map(|path| read_public(path)).collect::<Result<Vec<_>, _>>().map_err(super::hinted)?;
    let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).context("tell the time");
    let (created, expires) = (whole(Timestamp::now())?, expires.map(whole).transpose()?);
    let (prefix, number, threshold) = (prefix.clone(), *number, *threshold);
    let rotation = Rotation { prefix, number, threshold, created, expires, keys };
    let text = rotation.to_text();
    // What is written must be what is read: a rotation that nobody can apply is not passed round.
    Rotation::parse(&text)?;
    let shown = || format!("write `{}`", file.display());
    File::create_new(file).and_then(|mut file| file.write_all(text.as_bytes())).with_context(shown)?;
    Ok(String::new())
}

/// Whether the file is a rotation rather than an image.
pub(super) fn is_one(path: &Path) -> bool {
    let mut first = [0; Rotation::DOMAIN.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *Rotation::DOMAIN.as_bytes()
}

/// Adds a signature to a rotation.
pub(super) fn sign(path: &Path, key: &SecretKey) -> Result<String, Failure> {
    let mut text = String::new();
    let shown = || format!("read `{}`", path.display());
    // One byte more than a rotation may have, for which it is refused.
    let max = Rotation::BYTES_MAX as u64 + 1;
    File::open(path).and_then(|file| file.take(max).read_to_string(&mut text)).with_context(shown)?;
    let (rotation, _) = Rotation::parse(&text)?;
    let signed = Rotation::sign(&text, key).with_context(|| format!("`{}`", path.display()))?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::write(&temporary, signed).and_then(|()| std::fs::rename(&temporary, path));
    written.with_context(|| format!("write `{}`", path.display()))?;
    Ok(format!("rotation {} of {} {}\n", rotation.number, rotation.prefix, key.id()))
}

fn prefix(text: &str) -> Result<Prefix, String> {
    Prefix::parse(text).map_err(|error| error.to_string())
}
