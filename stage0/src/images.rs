//! The images of a command line: references → images that may run, in the words of `pod.json`.

use crate::arguments::globals::Globals;
use crate::arguments::pod_flags::Pull;
use crate::failure::Failure;
use crate::output;
use crate::pod_json::AppImage;
use crate::values::sets::Insecure;
use anyhow::{Context, Result};
use contract::host::StageImage;
use contract::pod::{Pod, Trust};
use image_tools::digest::Digest;
use image_tools::obtain::{self, Images, ObtainError, Obtained, Platform, PullPolicy, Terms};
use image_tools::reference::{NameReference, Reference, Source};
use image_tools::store::{Store, StoreError, StoredImage};
use image_tools::trust::{Policy, TrustDirs};
use std::path::PathBuf;

/// `$DATA/images`, absolute: the layers' paths are read after the working directory has changed.
fn store_path(globals: &Globals) -> Result<PathBuf> {
    let data = std::path::absolute(&globals.dir).with_context(|| format!("resolve `{}`", globals.dir.display()))?;
    Ok(data.join("images"))
}

/// Opens the store, and makes it if it is not there.
pub(crate) fn store(globals: &Globals) -> Result<Store> {
    let path = store_path(globals)?;
    Store::open(&path).with_context(|| format!("open the image store `{}`", path.display()))
}

/// The store and the policy.
pub(crate) fn open(globals: &Globals) -> Result<Images> {
    Ok(Images { store: store(globals)?, policy: Policy::load(&trust_dirs(globals)?) })
}

/// Who may publish what, by vendor, administrator, and the key of the built-in demo image.
pub(crate) fn trust_dirs(globals: &Globals) -> Result<TrustDirs> {
    let dirs = TrustDirs::new(&globals.system_config, &globals.local_config);
    crate::demo::trust(dirs)
}

/// Parses what was typed.
pub(crate) fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|error| Failure::new(error.to_string()))
}

/// What the user says about the images of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    /// When to ask where an image came from.
    pub(crate) pull: Pull,
    /// `--allow-downgrade`
    pub(crate) downgrade: bool,
    /// `--insecure-options`
    pub(crate) insecure: Insecure,
}

/// Fetches or imports what is missing for this machine, and verifies.
pub(crate) fn obtain(images: &Images, text: &str, words: Words) -> Result<Obtained> {
    obtain_on(images, text, words, Platform::host())
}

/// As [`obtain`], for another machine.
pub(crate) fn obtain_on(images: &Images, text: &str, words: Words, platform: Platform) -> Result<Obtained> {
    let reference = reference(text)?;
    crate::demo::provide(images, &reference)?;
    let pull = match words.pull {
        Pull::New => PullPolicy::New,
        Pull::Update => PullPolicy::Update,
        Pull::Never => PullPolicy::Never,
    };
    let context = || format!("image `{}`", crate::escape::escape(text));
    let terms = Terms { pull, insecure: insecure(words.insecure), downgrade: words.downgrade, platform };
    let obtained = images.obtain_on(&reference, &terms).map_err(|error| match error {
        ObtainError::Store(StoreError::Damaged(_)) => crate::failure::advise(
            failure(error),
            format!("`{}` gets it again", fetch_command(words.insecure.image, text)),
        ),
        _ => failure(error),
    });
    let obtained = obtained.with_context(context)?;
    if let Some(audit) = &obtained.audit {
        output::notice(&format!("pod: image `{text}` runs because its rule only audits: {audit}"));
    }
    Ok(obtained)
}

/// The command that brings an image again, to be pasted.
pub(crate) fn fetch_command(insecure: bool, text: &str) -> String {
    let insecure = if insecure { "--insecure-options=image " } else { "" };
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@:,=".contains(&byte));
    let text = if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) };
    format!("pod {insecure}fetch {text}")
}

/// The name in what was typed, under which the image is judged again.
pub(crate) fn asked(text: &str) -> Option<NameReference> {
    match Reference::parse(text) {
        Ok(Reference::Name(name) | Reference::Source(Source::Registry(name))) => Some(name),
        _ => None,
    }
}

/// In image-tools' words.
pub(crate) fn insecure(insecure: Insecure) -> obtain::Insecure {
    obtain::Insecure { image: insecure.image, tls: insecure.tls, http: insecure.http }
}

/// image-tools' error with its advice.
pub(crate) fn failure(error: ObtainError) -> anyhow::Error {
    let hint = error.hint();
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => crate::failure::advise(error, hint),
        None => error,
    }
}

/// In the words of `pod.json`.
pub(crate) fn app_image(obtained: Obtained) -> AppImage {
    let allowed = obtained.acceptance.as_ref().map(|acceptance| acceptance.allowed()).unwrap_or_default();
    let image = obtained.image;
    AppImage {
        allowed,
        id: image.id.to_string(),
        name: image.name.as_str().to_owned(),
        base: image.name.base().to_owned(),
        version: image.version.as_ref().map(|version| version.as_str().to_owned()),
        config: image.config,
        layers: image.layers,
        trust: trust(obtained.trust),
    }
}

/// The image of a stage1, for `host.json`.
pub(crate) fn stage_image(obtained: &Obtained) -> StageImage {
    let asked = obtained.asked.as_ref().map(ToString::to_string);
    StageImage { id: obtained.image.id.to_string(), trust: trust(obtained.trust.clone()), asked }
}

fn trust(trust: obtain::Trust) -> Trust {
    match trust {
        obtain::Trust::Signature { prefix, keys } => Trust::Signature { prefix, keys, granted: Vec::new() },
        obtain::Trust::Digest => Trust::Digest,
        obtain::Trust::Insecure => Trust::Insecure,
    }
}

/// An image of the store by its id, judged again under the name it was asked for.
pub(crate) fn stored(
    images: &Images,
    id: &Digest,
    asked: Option<&NameReference>,
    insecure: obtain::Insecure,
) -> Result<Obtained> {
    images.stored(id, asked, insecure).map_err(failure)
}

/// For a stage1 that boots: one block image for each app, made the first time and then found.
pub(crate) fn add_blocks(images: &Images, pod: &mut Pod) -> Result<()> {
    for app in &mut pod.apps {
        let context = || format!("make the block image of app `{}`", app.name);
        let id = Digest::parse(&app.image.id).with_context(context)?;
        let block = image_tools::block::image(images.store.root(), &id, &app.root.layers);
        app.root.block = Some(block.map_err(block_failure).with_context(context)?);
    }
    Ok(())
}

fn block_failure(error: image_tools::block::BlockError) -> anyhow::Error {
    let hint = error.hint();
    let error = anyhow::Error::new(error);
    match hint {
        Some(hint) => crate::failure::advise(error, hint),
        None => error,
    }
}

/// The image of the store that is meant: an id, the start of one, or a name.
pub(crate) fn find(store: &Images, text: &str) -> Result<StoredImage> {
    let context = || format!("image `{}`", crate::escape::escape(text));
    store.store.image(&find_id(store, text)?).with_context(context)
}

/// As [`find`], for commands that deal with damaged images, too.
pub(crate) fn find_id(store: &Images, text: &str) -> Result<Digest> {
    let context = || format!("image `{}`", crate::escape::escape(text));
    Ok(match reference(text)? {
        Reference::Id(prefix) => store.store.find_id(&prefix).with_context(context)?,
        Reference::Name(name) => match store.find(&name) {
            Ok(id) => id,
            // Hexadecimal digits may be the start of an id that was typed without `sha256:`.
            Err(error) => {
                match image_tools::reference::IdPrefix::parse(text).map(|prefix| store.store.find_id(&prefix)) {
                    Some(Ok(id)) => id,
                    _ => return Err(error).with_context(context),
                }
            }
        },
        Reference::Source(_) => {
            return Err(Failure::new(format!(
                "`{}` is a source; this command is about images in the store",
                text.escape_debug()
            ))
            .hint("`pod image list` shows their names and ids")
            .into());
        }
    })
}
