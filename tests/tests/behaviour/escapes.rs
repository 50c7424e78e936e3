//! Text of strangers on its way to a terminal: whatever an image says of itself, no command writes a control character, or a
//! character that reorders or hides text, to either of its streams.

use tests::{Outcome, Test, stage_test};

/// What an image may try: a colour, a C1 introducer, a title, an override, an isolate, marks, separators, a tag.
const HOSTILE: &str =
    "\u{1b}[31m\u{9b}31m\u{1b}]0;t\u{7}\u{7f}\u{202e}\u{2066}\u{200e}\u{61c}\u{2028}\u{feff}\u{e0041}\r\u{8}";

#[track_caller]
fn assert_plain(outcome: &Outcome) {
    for (stream, text) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        let bad = text.chars().find(|c| HOSTILE.chars().any(|hostile| hostile == *c && !hostile.is_ascii_graphic()));
        assert_eq!(bad, None, "raw on {stream}: {outcome}");
    }
}

/// The ordinary probe image with hostile texts wherever an image has texts.
fn image(t: &Test, name: &str) -> String {
    let mut recipe = tests::probe_recipe(&tests::probe_bytes());
    recipe.labels.insert(format!("label{HOSTILE}"), format!("value{HOSTILE}"));
    recipe.entrypoint = vec![format!("/no{HOSTILE}")];
    recipe.environment = vec![format!("VALUE={HOSTILE}")];
    recipe.user = format!("user{HOSTILE}");
    t.signed(&recipe, name).display().to_string()
}

stage_test!(no_command_writes_control_characters_of_an_image, |t| {
    let image = image(t, "example.com/texts:1");
    let name = "example.com/texts:1";
    t.cli(["fetch", &image]).assert_ok();
    let annotation = format!("--annotation=note=x{}", HOSTILE.replace(char::is_whitespace, ""));
    let prepared = t.cli(["prepare", &format!("--stage1={}", t.stage1()), &annotation, name, "--user=0", "--", "x"]);
    assert_plain(&prepared);
    let uuid = t.uuids().first().cloned().unwrap_or_default();
    let mut shown = 0;
    for words in [
        &["image", "inspect", name][..],
        &["image", "inspect", name, "--format=json"],
        &["image", "list"],
        &["image", "list", "--full", "--format=json-pretty"],
        &["image", "verify", name],
        &["image", "inspect", &format!("example.com/{HOSTILE}")],
        &["image", "rm", &format!("sha256:{HOSTILE}")],
        &["list", "--full"],
        &["list", "--format=json"],
        &["status", &uuid],
        &["status", &uuid, "--format=json-pretty"],
        &["cat-manifest", &uuid, "--pretty-print"],
        &["status", HOSTILE],
        &["run", "--net=none", &format!("--stage1={}", t.stage1()), name],
        &["run", "--net=none", &format!("--stage1={}", t.stage1()), name, "--user=0"],
        &["run", "--net=none", &format!("--stage1={HOSTILE}"), name],
        &["trust", "list", HOSTILE],
        &[HOSTILE],
    ] {
        let outcome = t.cli(words);
        assert_plain(&outcome);
        shown += usize::from(outcome.stdout.contains("202e") || outcome.stderr.contains("202e"));
    }
    // The texts were there to be shown.
    assert!(shown >= 8, "only {shown} commands showed a hostile text");
    for words in [&["inspect", &image][..], &["inspect", &image, "--format=json"]] {
        let outcome = t.tools(words);
        outcome.assert_ok();
        assert_plain(&outcome);
        assert!(outcome.stdout.contains("202e"), "{outcome}");
    }
    for words in
        [&["inspect", HOSTILE][..], &["verify", "--key", HOSTILE, &image], &["keygen", HOSTILE, HOSTILE], &[HOSTILE]]
    {
        let outcome = t.tools(words);
        assert_ne!(outcome.code, 0, "{outcome}");
        assert_plain(&outcome);
    }
    // A program reads from the JSON what the image said.
    let inspected = t.tools(["inspect", &image, "--format=json"]).json();
    assert!(inspected["labels"].to_string().contains('\u{202e}'), "{inspected}");
});
