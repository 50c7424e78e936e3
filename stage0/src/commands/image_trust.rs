//! `pod image verify` and `pod image push`: what is known of an image, and passing it on with that.

use crate::arguments::globals::Globals;
use crate::arguments::image_commands::{ImagePush, Images};
use crate::failure::Failure;
use crate::{images, output};
use anyhow::{Context, Result};
use image_tools::obtain::{Insecure, Trust};
use image_tools::reference::{NameReference, Reference, Source};
use image_tools::store::{Origin, StoredImage};

/// Checks content and signatures of images; says for each which rule and which keys let it run.
pub(crate) fn verify(globals: &Globals, arguments: &Images) -> Result<()> {
    let store = images::open(globals)?;
    for text in &arguments.images {
        let context = || format!("image `{}`", crate::escape::escape(text));
        let id = images::find_id(&store, text)?;
        let verified = store.store.verify(&id).with_context(context)?;
        if !verified.damage.is_empty() {
            let damage: Vec<String> = verified.damage.iter().map(ToString::to_string).collect();
            let failure = Failure::new(format!("{}: {}", context(), damage.join("; ")));
            return Err(failure.hint(heal(store.store.origin(&id), store.store.image(&id).ok().as_ref())).into());
        }
        let image = store.store.image(&id).with_context(context)?;
        let obtained = images::stored(&store, &image.id, images::asked(text).as_ref(), Insecure::default())
            .with_context(context)?;
        let grounds = match obtained.trust {
            Trust::Signature { prefix, keys } if keys.is_empty() => format!("accepted unsigned by rule `{prefix}`"),
            Trust::Signature { prefix, keys } => format!("signed as rule `{prefix}` asks, by {}", keys.join(", ")),
            Trust::Digest => "named by its digest".to_owned(),
            Trust::Insecure => match obtained.audit {
                Some(refusal) => format!("runs by a rule in audit mode: {refusal}"),
                None => "let in by --insecure-options=image".to_owned(),
            },
        };
        let version = image.version.map_or_else(String::new, |version| format!(":{version}"));
        let mut layers =
            if verified.layers == 1 { "1 layer".to_owned() } else { format!("{} layers", verified.layers) };
        if verified.block {
            layers.push_str(" and the block image");
        }
        output::print(&format!("{} {}{version}: {layers} intact, {grounds}\n", image.id, image.name))?;
    }
    Ok(())
}

/// The command that brings what is damaged again: a fetch from where it came from.
fn heal(origin: Option<Origin>, image: Option<&StoredImage>) -> String {
    let Some(origin) = origin else {
        return "fetch it again from where it came from, by `pod fetch SOURCE`".to_owned();
    };
    if origin.source == crate::demo::ORIGIN {
        return "`pod fetch --pull-policy=new demo` brings again what is damaged".to_owned();
    }
    let mut command = images::fetch_command(origin.insecure, &origin.source);
    let architecture = image.map(|image| image.config.architecture.as_str());
    if let Some(other) = architecture.filter(|one| *one != image_tools::oci::host_architecture()) {
        command.push_str(&format!(" --arch={other}"));
    }
    format!("`{command}` brings again what is damaged")
}

/// Sends an image of the store to a registry; prints the digest that its tag names there.
pub(crate) fn push(globals: &Globals, arguments: &ImagePush) -> Result<()> {
    let store = images::open(globals)?;
    let image = images::find(&store, &arguments.image)?;
    let to = match images::reference(&arguments.to)? {
        Reference::Name(name) | Reference::Source(Source::Registry(name)) => name,
        Reference::Id(_) | Reference::Source(_) => {
            let failure = Failure::usage(format!("`{}` is no place at a registry", arguments.to.escape_debug()));
            return Err(failure.hint("write `docker://registry.example.com/team/app:1.0`").into());
        }
    };
    let known = store.is_known_as(&image, &to).map_err(images::failure)?;
    let insecure = globals.insecure();
    let insecure = Insecure { image: insecure.image, tls: insecure.tls, http: insecure.http };
    let digest = store
        .push(&image, &to, insecure)
        .map_err(images::failure)
        .with_context(|| format!("push to `{}`", crate::escape::escape(&arguments.to)))?;
    if !known {
        warn_of_other_name(&image, &to);
    }
    output::print(&format!("{digest}\n"))
}

/// Other tools take an image under any name; `pod` asks what it calls itself, and what its signatures call it.
fn warn_of_other_name(image: &StoredImage, to: &NameReference) {
    let version = image.version.as_ref().map_or_else(String::new, |version| format!(":{version}"));
    let own = format!("{}{version}", image.name);
    output::notice(&format!("pod: `{to}` is called `{own}` by itself, so `pod` takes it there by its digest only"));
    output::notice(&format!(
        "hint: sign it under that name, too, with `image-tools sign --key KEY.key --name {to} FILE.pod`, and fetch and push FILE.pod"
    ));
}
