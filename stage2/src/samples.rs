//! Apps and pods for tests: only what a test is about has to be said.

use contract::pod::App;

const APP: &str = r#"{
    "name": "app", "image": IMAGE, "root": {"layers": [], "read_only": false}, "exec": ["/bin/true"], "user": "0",
    "working_directory": "/", "environment": [], "capabilities": [], "no_new_privileges": true,
    "seccomp": {"mode": "unconfined"}, "restart": {"policy": "no"}, "stop": {"signal": 15, "grace_millis": 10000},
    "stdio": {"mode": "null"}}"#;

/// An app with these fields changed.
pub(crate) fn app(changes: &str) -> App {
    let image = r#"{"id": "sha256:0", "name": "test", "version": "1", "trust": {"by": "insecure"}}"#;
    let mut app: serde_json::Value = serde_json::from_str(&APP.replace("IMAGE", image)).unwrap();
    let changes: serde_json::Map<_, _> = serde_json::from_str(changes).unwrap();
    app.as_object_mut().unwrap().extend(changes);
    serde_json::from_value(app).unwrap()
}
