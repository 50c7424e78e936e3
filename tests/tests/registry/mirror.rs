//! A mirror: images under their own names, from elsewhere, held to the rules of their own names.

use crate::registry_test;
use crate::world::configure;
use serde_json::json;
use std::fs;

registry_test!(a_mirror_serves_images_and_signatures_under_their_own_names, |w| {
    // Nobody answers at the registry itself: its port is one that nothing listens on.
    let origin = "registry.invalid:1";
    let location = format!("{}/mirrored", w.server.host);
    configure(w.t, "origin", &json!({ "registry": origin, "mirrors": [{ "location": location }] }));
    let key = w.t.key("publisher");
    let name = format!("{origin}/team/app:1");
    let file = w.image_called(&name, "mirrored");
    w.t.sign(&file, &key);
    w.push(&file, "mirrored/team/app:1");
    let refused = |text: &str| {
        w.forget();
        w.run(&name).assert_refused(125, text);
    };
    refused("covered by no trust rule");
    // The mirror's name is not the image's: a rule for the mirror is none for what it holds.
    w.t.trust(&w.server.host, &key);
    refused("is signed by key");
    w.t.trust(&format!("{origin}/team"), &key);
    w.forget();
    w.run(&name).assert_exit(0).assert_stdout("ran");
    // By its id as a pin, too, which needs no rule.
    let id = w.t.cli(["fetch", &name]).assert_ok().stdout.trim().to_owned();
    w.t.cli(["trust", "rm", "--prefix", &format!("{origin}/team"), &key_id(w, origin)]).assert_ok();
    w.forget();
    w.run(&format!("{origin}/team/app@{id}")).assert_exit(0).assert_stdout("ran");
    // A mirror that lies: another publisher's image under the name, and a manifest that is not what its digest says.
    w.t.trust(&format!("{origin}/team"), &key);
    let stranger = w.t.key("stranger");
    let lie = w.image_called(&name, "lie");
    w.t.sign(&lie, &stranger);
    w.push(&lie, "mirrored/team/app:1");
    refused("is signed by key");
    w.push(&w.image("team/other:1", "other"), "mirrored/team/app:1");
    refused(&format!("which calls itself `{}`, is not signed", w.name("team/other:1")));
    let manifest = w.blob_file(&id);
    let whole = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, whole.replace("schemaVersion", "schemaversion")).unwrap();
    w.forget();
    // The mirror is passed over, and the registry itself cannot be reached.
    w.run(&format!("{origin}/team/app@{id}")).assert_refused(125, origin);
});

fn key_id(w: &crate::World<'_>, origin: &str) -> String {
    let rules = w.t.cli(["trust", "show", &format!("{origin}/team"), "--format=json"]).assert_ok().json();
    rules[0]["keys"][0]["id"].as_str().expect("a key").to_owned()
}
