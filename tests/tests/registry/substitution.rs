//! Signatures that are true, of something else: another image, another name, another machine, other bytes.

use crate::forged::Forged;
use crate::{World, registry_test};
use std::path::PathBuf;
use tests::Key;

/// A signed image in a file, whose key is trusted for all of the team.
fn signed(w: &World<'_>, key: &Key, name: &str, content: &str) -> PathBuf {
    let file = w.image(name, content);
    w.t.sign(&file, key);
    file
}

registry_test!(one_images_signature_does_not_count_for_another, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let a = signed(w, &key, "team/a:1", "a");
    let b = w.image("team/b:1", "b");
    // Without more ado: the registry hands out A where B was asked for.
    w.push(&a, "team/a:1");
    w.push(&a, "team/b:1");
    w.accepted("team/a:1");
    let name = w.name("team/a");
    w.refused("team/b:1", &format!("does not count: the signature is for the image `{name}`"));
    // An older or newer one of the same name is another image, too.
    w.push(&a, "team/a:2");
    w.refused("team/a:2", "does not count: the signature is for version `1`");
    // B with A's signature beside it, which says in its outer documents that it is of B.
    let mut forged = Forged::open(&b);
    forged.take_signature(&Forged::open(&a));
    forged.write(&b);
    w.push(&b, "team/b:1");
    w.refused("team/b:1", &format!("does not count: the signature is for the image `{name}`"));
    // Other content under A's own name, with A's signature.
    let evil = w.image("team/a:1", "evil");
    let mut forged = Forged::open(&evil);
    forged.take_signature(&Forged::open(&a_again(w, &key)));
    forged.write(&evil);
    w.push(&evil, "team/a:1");
    w.refused("team/a:1", "does not count: the signature is for");
});

/// `team/a:1` as it was signed; the file of that name is another one by now.
fn a_again(w: &World<'_>, key: &Key) -> PathBuf {
    let other = w.t.path("again.pod");
    let evil = w.image("team/a:1", "evil");
    std::fs::rename(&evil, w.t.path("evil.pod")).unwrap();
    std::fs::rename(signed(w, key, "team/a:1", "a"), &other).unwrap();
    std::fs::rename(w.t.path("evil.pod"), evil).unwrap();
    other
}

// What a liar would do: one byte is changed, and all digests above it are made right again.
registry_test!(one_changed_byte_is_refused_though_all_digests_are_right, |w| {
    let key = w.t.key("publisher");
    w.trust("team", &key);
    let file = signed(w, &key, "team/app:1", "app");
    let whole = std::fs::read(&file).unwrap();
    for (which, name) in [(0, "statement"), (1, "signature")] {
        let length = {
            let forged = Forged::open(&file);
            let manifest = forged.json(&forged.index["manifests"][1]);
            forged.blob(&manifest["layers"][which]).len()
        };
        // In the first line, in the middle, and in the last but one character.
        for position in [length / 4, length / 2, length - 3] {
            let mut forged = Forged::open(&file);
            forged.change_signature(|_, contents| contents[which][position] ^= 1);
            forged.write(&file);
            w.push(&file, "team/app:1");
            let outcome = w.run_fresh("team/app:1");
            assert_eq!(outcome.code, 125, "{name} byte {position}: {outcome}");
            assert!(!outcome.stderr.contains("panicked"), "{outcome}");
            std::fs::write(&file, &whole).unwrap();
            // The referrers of one image add up at a registry, so the next case begins with none.
            w.forget_repository("team/app");
        }
    }
    w.push(&file, "team/app:1");
    w.accepted("team/app:1");
});
