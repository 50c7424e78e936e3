//! The JSON Schemas in `schema/`, generated from the types, and the example there. `POD_WRITE_SCHEMAS=1 cargo test -p contract`
//! writes them anew; without it, the test fails where a file does not say what the types do.

use crate::{channel, check, control, guest, host, pod, stage1, status};
use schemars::Schema;
use std::path::PathBuf;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema")
}

/// Each file, and whose form it is.
fn schemas() -> [(&'static str, Schema); 10] {
    [
        ("pod", schemars::schema_for!(pod::Pod)),
        ("host", schemars::schema_for!(host::Host)),
        ("stage1", schemars::schema_for!(stage1::Stage1)),
        ("status", schemars::schema_for!(status::AppStatus)),
        ("control-request", schemars::schema_for!(control::Request)),
        ("control-reply", schemars::schema_for!(control::Reply)),
        ("channel-command", schemars::schema_for!(channel::Command)),
        ("channel-event", schemars::schema_for!(channel::Event)),
        ("check", schemars::schema_for!(Vec<check::Line>)),
        ("guest", schemars::schema_for!(guest::Guest)),
    ]
}

#[test]
fn schemas_are_those_of_the_types() {
    for (name, schema) in schemas() {
        let file = directory().join(format!("{name}.schema.json"));
        // By way of a value, whose maps are sorted: the order of fields is not of the schema.
        let value = serde_json::to_value(&schema).expect("a schema is JSON");
        let text = serde_json::to_string_pretty(&value).expect("a value is JSON") + "\n";
        if std::env::var_os("POD_WRITE_SCHEMAS").is_some() {
            std::fs::write(&file, &text).expect("write the schema");
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == text, "`{}` is not the form of the type; POD_WRITE_SCHEMAS=1 writes it", file.display());
    }
}

#[test]
fn the_example_is_a_pod() {
    let text = std::fs::read(directory().join("pod.example.json")).expect("read the example");
    let pod: pod::Pod = crate::json::parse(&text).expect("the example parses");
    let again = serde_json::to_value(&pod).expect("a pod is JSON");
    let example: serde_json::Value = serde_json::from_slice(&text).expect("the example is JSON");
    assert_eq!(again, example, "the example says everything, and nothing twice");
    assert!(!crate::features::required(&pod).is_empty());
}
