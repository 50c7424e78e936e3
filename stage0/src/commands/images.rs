//! `pod fetch` and `pod image …`.

use crate::arguments::commands::{Fetch, Format};
use crate::arguments::globals::Globals;
use crate::arguments::image_commands::{Image, ImageExport, ImageExtract, ImageGc, ImageInspect, ImageList, Images};
use crate::facts::now_unix_secs;
use crate::failure::Failure;
use crate::images;
use crate::life::pods::Pods;
use crate::output::{self, Table};
use anyhow::{Context, Result};
use contract::dir::{HOST, POD, Phase};
use contract::host::Host;
use image_tools::digest::Digest;
use image_tools::obtain::{Images as Stored, Obtained, Platform};
use image_tools::store::{InUse, Store, StoredImage};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// `pod fetch`: one id a line on stdout, nothing else.
pub(crate) fn fetch(globals: &Globals, arguments: &Fetch) -> Result<()> {
    let store = images::open(globals)?;
    let platform = arguments.arch.clone().unwrap_or_else(Platform::host);
    for text in &arguments.images {
        let (pull, downgrade) = (arguments.pull_policy, arguments.allow_downgrade);
        let words = images::Words { pull, downgrade, insecure: globals.insecure() };
        let obtained = fetch_whole(&store, text, words, &platform)?;
        output::print(&format!("{}\n", obtained.image.id))?;
    }
    Ok(())
}

/// Fetches, and brings again what of the image was here before and is damaged. A run does not read all of an image; a fetch
/// does, but for what was unpacked just now.
fn fetch_whole(store: &Stored, text: &str, words: images::Words, platform: &Platform) -> Result<Obtained> {
    const ROUNDS_MAX: usize = 3;
    let begin = std::time::SystemTime::now();
    let mut damage = String::new();
    for _ in 0..ROUNDS_MAX {
        let obtained = images::obtain_on(store, text, words, platform.clone())?;
        if store.store.verified(&obtained.image.config).is_some_and(|time| time >= begin) {
            return Ok(obtained);
        }
        let verified = store.store.verify(&obtained.image.id)?;
        let Some(first) = verified.damage.first() else { return Ok(obtained) };
        damage = first.to_string();
        store.store.set_aside(&obtained.image.id, &verified)?;
    }
    Err(Failure::new(format!("image `{text}` is damaged again and again: {damage}")).into())
}

/// `pod image …`
pub(crate) fn image(globals: &Globals, command: &Image) -> Result<()> {
    match command {
        Image::List(arguments) => list(globals, arguments),
        Image::Inspect(arguments) => inspect(globals, arguments),
        Image::Rm(arguments) => remove(globals, arguments),
        Image::Gc(arguments) => collect(globals, arguments),
        Image::Export(arguments) => export(globals, arguments),
        Image::Extract(arguments) => extract(globals, arguments),
        Image::Verify(arguments) => super::image_trust::verify(globals, arguments),
        Image::Push(arguments) => super::image_trust::push(globals, arguments),
    }
}

/// An image as `image list` shows it.
#[derive(Serialize)]
struct View<'a> {
    id: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    size_bytes: u64,
    imported_unix_secs: u64,
    last_used_unix_secs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_unix_secs: Option<u64>,
    source: &'a str,
    signatures: usize,
    insecure: bool,
}

fn view<'a>(store: &Store, image: &'a StoredImage) -> View<'a> {
    View {
        id: image.id.to_string(),
        name: image.name.as_str(),
        version: image.version.as_ref().map(image_tools::name::Version::as_str),
        size_bytes: image.size_bytes,
        imported_unix_secs: image.imported_unix_secs,
        last_used_unix_secs: image.last_used_unix_secs,
        verified_unix_secs: store
            .verified(&image.config)
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map(|time| time.as_secs()),
        source: &image.origin.source,
        signatures: image.signatures.len(),
        insecure: image.origin.insecure,
    }
}

fn list(globals: &Globals, arguments: &ImageList) -> Result<()> {
    let store = images::store(globals)?;
    let mut list = store.list()?;
    list.sort_by(|a, b| {
        a.imported_unix_secs.cmp(&b.imported_unix_secs).then_with(|| a.id.to_string().cmp(&b.id.to_string()))
    });
    let views: Vec<View<'_>> = list.iter().map(|image| view(&store, image)).collect();
    if arguments.format.format != Format::Table {
        return output::print_json(&views, arguments.format.format);
    }
    let (full, now) = (arguments.full, now_unix_secs());
    let mut table =
        Table::new(&["ID", "NAME", "SIZE", "IMPORTED", "LAST USED", "VERIFIED", "SOURCE"], arguments.no_legend);
    for image in views {
        let version = image.version.map_or_else(String::new, |version| format!(":{version}"));
        table.row([
            if full { image.id } else { image.id.chars().take(7 + 12).collect() },
            format!("{}{version}{}", image.name, if image.insecure { " (insecure)" } else { "" }),
            output::size(image.size_bytes, full),
            output::time(Some(image.imported_unix_secs), now, full),
            output::time(Some(image.last_used_unix_secs), now, full),
            output::time(image.verified_unix_secs, now, full),
            image.source.to_owned(),
        ]);
    }
    output::print(&table.render())?;
    for (id, why) in store.damaged()? {
        output::notice(&format!(
            "pod: image {id} is damaged and does not run: {why}; `pod image verify {id}` says what helps"
        ));
    }
    Ok(())
}

fn inspect(globals: &Globals, arguments: &ImageInspect) -> Result<()> {
    #[derive(Serialize)]
    struct Inspected<'a> {
        #[serde(flatten)]
        view: View<'a>,
        config: &'a image_tools::config::ImageConfig,
        layers: &'a [PathBuf],
        origin: &'a image_tools::store::Origin,
        #[serde(rename = "signature_documents")]
        documents: &'a [image_tools::signature::Signature],
    }
    let store = images::open(globals)?;
    let image = images::find(&store, &arguments.image)?;
    let inspected = Inspected {
        view: view(&store.store, &image),
        config: &image.config,
        layers: &image.layers,
        origin: &image.origin,
        documents: &image.signatures,
    };
    let format = if arguments.format.format == Format::Json { Format::Json } else { Format::JsonPretty };
    output::print_json(&inspected, format)
}

fn remove(globals: &Globals, arguments: &Images) -> Result<()> {
    let store = images::open(globals)?;
    for text in &arguments.images {
        let id = images::find_id(&store, text)?;
        refuse_prepared(globals, &id)?;
        store.store.remove(&id)?;
        output::print(&format!("{id}\n"))?;
    }
    Ok(())
}

/// A prepared pod is judged again when it is run, which needs all of its image.
fn refuse_prepared(globals: &Globals, id: &Digest) -> Result<()> {
    let Some(pods) = Pods::open_existing(&globals.dir)? else { return Ok(()) };
    for phase in [Phase::Prepare, Phase::Prepared] {
        for uuid in pods.uuids(phase)? {
            let Some(pod) = pods.open_pod(phase, &uuid)? else { continue };
            let stage1 = pod.read::<Host>(HOST).ok().flatten().and_then(|host| host.stage1_image).map(|image| image.id);
            let apps = pod.read::<contract::pod::Pod>(POD).ok().flatten().map(|pod| pod.apps).unwrap_or_default();
            let id = id.to_string();
            if stage1.as_ref() == Some(&id) || apps.iter().any(|app| app.image.id == id) {
                return Err(Failure::new(format!("pod `{uuid}` is prepared to run image {id}"))
                    .hint(format!("run that pod, or remove it by `pod rm {uuid}`"))
                    .into());
            }
        }
    }
    Ok(())
}

fn export(globals: &Globals, arguments: &ImageExport) -> Result<()> {
    let store = images::open(globals)?;
    let id = images::find(&store, &arguments.image)?.id;
    let shown = arguments.file.display();
    if !arguments.overwrite && arguments.file.symlink_metadata().is_ok() {
        return Err(Failure::new(format!("`{shown}` is there already")).hint("`--overwrite` replaces it").into());
    }
    store.store.export(&id, &arguments.file).with_context(|| format!("export to `{shown}`"))
}

fn extract(globals: &Globals, arguments: &ImageExtract) -> Result<()> {
    let store = images::open(globals)?;
    let id = images::find(&store, &arguments.image)?.id;
    store
        .store
        .extract(&id, &arguments.directory)
        .with_context(|| format!("extract to `{}`", arguments.directory.display()))
}

fn collect(globals: &Globals, arguments: &ImageGc) -> Result<()> {
    let store = images::store(globals)?;
    // First the lock: a pod that is being started holds the store open until it is written down.
    let alone = store.alone()?;
    let used = in_use(globals, &store)?;
    let collected = alone.collect(Some(arguments.grace_period / 1000), &used).context("collect images")?;
    for id in &collected.images {
        output::print(&format!("{id}\n"))?;
    }
    Ok(())
}

/// What pods of any phase are made of.
fn in_use(globals: &Globals, store: &Store) -> Result<InUse> {
    let mut used = InUse::default();
    let Some(pods) = Pods::open_existing(&globals.dir)? else { return Ok(used) };
    for phase in Phase::ALL {
        for uuid in pods.uuids(phase)? {
            let Some(pod) = pods.open_pod(phase, &uuid)? else { continue };
            if let Ok(Some(Host { stage1_image: Some(image), stage1, .. })) = pod.read(HOST) {
                used.images.extend(Digest::parse(&image.id));
                // Beside its stage1.json lie its programs, in the store.
                used.paths.extend(stage1.as_deref().and_then(Path::parent).map(Path::to_owned));
            }
            // A torn pod.json is that of a start that was killed; it runs nothing.
            let Ok(Some(description)) = pod.read::<contract::pod::Pod>(POD) else { continue };
            for app in description.apps {
                if let Ok(id) = Digest::parse(&app.image.id) {
                    used.paths.insert(image_tools::block::path(store.root(), &id));
                    used.images.insert(id);
                }
                used.paths.extend(app.root.layers);
            }
        }
    }
    Ok(used)
}
