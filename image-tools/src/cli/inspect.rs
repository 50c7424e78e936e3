//! `image-tools inspect`.

use super::Failure;
use image_tools::digest::Digest;
use image_tools::escape::{escape, escape_json};
use image_tools::obtain::name_of;
use image_tools::reference::Source;
use image_tools::signature::Signature;
use image_tools::source::{Content, SourceImage, description_of, parse_native};
use image_tools::statement::Statement;
use serde_json::{Value, json};
use std::fmt::Write;

pub(super) fn show(source: &Source, image: &SourceImage, as_json: bool) -> Result<String, Failure> {
    let value = describe(source, image)?;
    if as_json {
        return Ok(escape_json(&format!("{value:#}\n")).into_owned());
    }
    Ok(as_text(&value))
}

fn describe(source: &Source, image: &SourceImage) -> Result<Value, Failure> {
    let (id, name, version, description) = match &image.content {
        Content::Native { manifest, config } => {
            let (_, config) = parse_native(manifest, config)?;
            let (name, version) = (config.name.clone(), config.version.clone());
            (Some(Digest::of(manifest)), name, version, description_of(config))
        }
        Content::Foreign(description) => {
            let (name, version) = name_of(source, image);
            (None, name, version, description.clone())
        }
    };
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| {
            json!({
                "diff_id": layer.diff_id,
                "digest": layer.digest,
                "size": layer.size.unwrap_or(layer.extent.len()),
                "compression": format!("{:?}", layer.compression).to_lowercase(),
            })
        })
        .collect();
    Ok(json!({
        "id": id,
        "native": id.is_some(),
        "name": name,
        "version": version,
        "os": description.os,
        "architecture": description.architecture,
        "created": description.created,
        "labels": description.labels,
        "annotations": description.annotations,
        "app": description.app,
        "manifest": image.manifest,
        "layers": layers,
        "signatures": image.signatures.iter().map(signature).collect::<Vec<_>>(),
    }))
}

/// What the signature says; whether it is true is for `verify`.
fn signature(signature: &Signature) -> Value {
    match signature {
        Signature::Pod { statement, .. } => match Statement::parse(statement.as_bytes()) {
            Ok(said) => json!({
                "kind": "pod",
                "key": said.key.to_string(),
                "name": said.subject.name,
                "version": said.subject.version,
                "manifest": said.subject.manifest,
                "created": said.created.to_string(),
                "expires": said.expires.map(|expires| expires.to_string()),
            }),
            Err(error) => json!({ "kind": "pod", "malformed": error.to_string() }),
        },
        _ => json!({ "kind": "cosign" }),
    }
}

/// One line for each field that is there. Text of strangers is escaped before it reaches a terminal.
fn as_text(value: &Value) -> String {
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let shown = match value {
            Value::Null => continue,
            Value::String(string) => escape(string).into_owned(),
            Value::Array(items) if items.is_empty() => continue,
            Value::Object(fields) if fields.is_empty() => continue,
            Value::Array(items) => items.iter().map(|item| format!("\n  {}", escape_json(&item.to_string()))).collect(),
            Value::Object(fields) => {
                let field = |field: &Value| escape_json(&field.to_string()).into_owned();
                fields.iter().map(|(name, value)| format!("\n  {}: {}", escape(name), field(value))).collect()
            }
            other => escape_json(&other.to_string()).into_owned(),
        };
        let _ = writeln!(text, "{key}: {shown}"); // A String takes all.
    }
    text
}
