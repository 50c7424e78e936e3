//! Commands about pod itself: config, version, completion, man.

use crate::arguments::commands::{Completion, Format, Formatted, Man};
use crate::arguments::globals::Globals;
use crate::arguments::tree;
use crate::failure::Failure;
use crate::output;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;

/// `pod config`: the directories in effect, and the files in them that say something.
pub(crate) fn config(globals: &Globals, arguments: &Formatted) -> Result<()> {
    let mut files = Vec::new();
    for (level, root) in [("system", &globals.system_config), ("local", &globals.local_config)] {
        for directory in ["trust.d", "auth.d", "registries.d"] {
            for path in entries(&root.join(directory))? {
                files.push(json!({ "level": level, "kind": directory, "path": path }));
            }
        }
    }
    let config = json!({
        "dir": globals.dir,
        "system_config": globals.system_config,
        "local_config": globals.local_config,
        "insecure_options": globals.insecure_options.iter().map(|word| format!("{word:?}").to_lowercase()).collect::<Vec<_>>(),
        "files": files,
    });
    show(&config, arguments)
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let read = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("read `{}`", directory.display()))?,
    };
    let mut paths = Vec::new();
    for entry in read {
        paths.push(entry.with_context(|| format!("read `{}`", directory.display()))?.path().display().to_string());
    }
    paths.sort();
    Ok(paths)
}

/// `pod version`
pub(crate) fn version(arguments: &Formatted) -> Result<()> {
    let version = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "contract": contract::VERSION,
        "architecture": std::env::consts::ARCH,
        "demo_image": crate::demo::is_built_in(),
    });
    show(&version, arguments)
}

/// `key=value` lines for people.
fn show(value: &Value, arguments: &Formatted) -> Result<()> {
    if arguments.format.format != Format::Table {
        return output::print_json(value, arguments.format.format);
    }
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let lines: Vec<String> = match value {
            Value::Array(list) => list.iter().map(plain).collect(),
            other => vec![plain(other)],
        };
        lines.iter().for_each(|line| text.push_str(&format!("{key}={}\n", crate::escape::escape(line))));
    }
    output::print(&text)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => fields.values().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// `pod completion`
pub(crate) fn completion(arguments: &Completion) -> Result<()> {
    let mut bytes = Vec::new();
    clap_complete::generate(arguments.shell, &mut tree::whole(), "pod", &mut bytes);
    output::print(&String::from_utf8(bytes).context("write the completion script")?)
}

/// `pod man`: one page for each command, as `pod-image-list.1`.
pub(crate) fn man(arguments: &Man) -> Result<()> {
    let mut command = tree::whole();
    command.build();
    let Some(directory) = &arguments.directory else {
        let mut bytes = Vec::new();
        clap_mangen::Man::new(command).render(&mut bytes).context("write the manual page")?;
        return output::print(&String::from_utf8(bytes).context("write the manual page")?);
    };
    if !directory.is_dir() {
        return Err(Failure::new(format!("`{}` is not a directory", directory.display())).into());
    }
    clap_mangen::generate_to(command, directory)
        .with_context(|| format!("write manual pages to `{}`", directory.display()))
}
