//! Rules of the house that a machine can check, as ordinary tests: where things lie, who may link whom, how long a file
//! or a function may be, where `unsafe` may stand. A failure names the file and the line. Reads the work tree only.

#[path = "tidy/circles.rs"]
mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "image-tools",
    "stage0",
    "stage1-kvm",
    "stage1-namespaces",
    "stage2",
    "target",
    "tests",
];

/// Who may link whom, of our own crates.
const EDGES: &[(&str, &[&str])] = &[
    ("contract", &[]),
    ("image-tools", &[]),
    ("netlink", &[]),
    ("wire", &["contract"]),
    ("supervisor", &["contract", "wire"]),
    ("stage0", &["contract", "image-tools", "supervisor"]),
    ("stage1-namespaces", &["contract", "supervisor", "wire"]),
    ("stage1-kvm", &["contract", "netlink", "supervisor", "wire"]),
    ("stage2", &["contract", "netlink", "wire"]),
    ("tests", &["contract"]),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace").to_owned()
}

/// All files of the work tree but what is built, by path relative to it.
fn files() -> BTreeMap<String, String> {
    fn walk(directory: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).expect("a readable tree").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "target" || name == ".git" || name == "corpus" {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&path, root, found);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(root).expect("below the root").display().to_string();
                found.insert(relative, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&workspace(), &workspace(), &mut found);
    found
}

fn rust_files() -> BTreeMap<String, String> {
    files().into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

/// Fails with all lines at once, so that one run shows everything.
fn assert_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// `PATH:LINE: TEXT` of the lines that `bad` picks.
fn lines_where(files: &BTreeMap<String, String>, bad: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = files.iter().flat_map(|(path, text)| text.lines().enumerate().map(move |(n, line)| (path, n, line)));
    lines.filter(|(_, _, line)| bad(line)).map(|(path, n, line)| format!("{path}:{}: {}", n + 1, line.trim())).collect()
}

/// The part of a line that is code; strings that hold `//` make it shorter than it is, which only weakens the rule.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[test]
fn top_level_is_as_designed() {
    let names =
        fs::read_dir(workspace()).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let strangers: Vec<String> = names.filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str())).collect();
    assert_none("not part of the top level", &strangers);
}

/// Our own crates in a manifest's `[dependencies]` and `[dev-dependencies]`.
fn own_dependencies(manifest: &str) -> BTreeSet<String> {
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    dependencies(manifest).into_iter().filter(|name| ours.contains(name.as_str())).collect()
}

fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies]");
        } else if inside && line.contains('=') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            found.push(name.trim_matches('"').to_owned());
        }
    }
    found
}

fn manifests() -> Vec<(String, String)> {
    let manifests = files().into_iter().filter(|(path, _)| path.ends_with("/Cargo.toml"));
    let named = manifests.filter_map(|(path, text)| {
        let line = text.lines().find(|line| line.starts_with("name = "))?;
        Some((line.trim_start_matches("name = ").trim_matches('"').to_owned(), path))
    });
    named.collect()
}

#[test]
fn crates_link_only_whom_they_may() {
    let all = files();
    let mut bad = Vec::new();
    for (name, path) in manifests() {
        if path.contains("fuzz/") {
            continue; // Fuzz targets are programs of their own, which link what they fuzz.
        }
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            bad.push(format!("{path}: crate `{name}` is not in the design"));
            continue;
        };
        let linked = own_dependencies(&all[&path]);
        bad.extend(linked.iter().filter(|to| !allowed.contains(&to.as_str())).map(|to| format!("{name} → {to}")));
    }
    assert_none("edges that the design does not have", &bad);
}

/// Every `A → B` in backticks.
fn edges_of_readme(readme: &str) -> BTreeSet<String> {
    readme.split('`').filter(|text| text.contains(" → ") && !text.contains('\n')).map(ToOwned::to_owned).collect()
}

#[test]
fn readme_has_the_real_edges() {
    let all = files();
    let named = edges_of_readme(&all["README.md"]);
    let crates = manifests().into_iter().filter(|(_, path)| !path.contains("fuzz/"));
    let real: BTreeSet<String> = crates
        .flat_map(|(name, path)| own_dependencies(&all[&path]).into_iter().map(move |to| format!("{name} → {to}")))
        .collect();
    assert_none("the README lacks edges", &real.difference(&named).cloned().collect::<Vec<_>>());
    assert_none("the README has edges that no manifest has", &named.difference(&real).cloned().collect::<Vec<_>>());
}

#[test]
fn dependencies_are_used() {
    let all = files();
    let mut unused = Vec::new();
    for (name, path) in manifests() {
        let directory = path.trim_end_matches("Cargo.toml");
        let sources = all.iter().filter(|(file, _)| file.starts_with(directory) && file.ends_with(".rs"));
        // A crate that lies inside another one's directory has its own manifest.
        let nested = |file: &str| file.strip_prefix("stage0/").is_some_and(|rest| !rest.starts_with("src/"));
        let sources = sources.filter(|(file, _)| directory != "stage0/" || !nested(file));
        let source: String = sources.map(|(_, text)| text.as_str()).collect();
        for dependency in dependencies(&all[&path]) {
            let word = dependency.replace('-', "_");
            if !source.contains(&format!("{word}::")) && !source.contains(&format!("use {word}")) {
                unused.push(format!("{name}: {dependency}"));
            }
        }
    }
    assert_none("dependencies that no source file names", &unused);
}

/// The names below `[workspace.dependencies]`.
fn offered(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let lines = section.take_while(|line| !line.starts_with('[')).filter(|line| line.contains('='));
    lines.map(|line| line.split(['=', ' ']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn workspace_dependencies_have_a_user() {
    let all = files();
    let used: BTreeSet<String> = manifests().iter().flat_map(|(_, path)| dependencies(&all[path])).collect();
    let unused: Vec<String> = offered(&all["Cargo.toml"]).into_iter().filter(|name| !used.contains(name)).collect();
    assert_none("workspace dependencies that no member names", &unused);
}

#[test]
fn no_two_files_import_each_other() {
    let all = rust_files();
    let mut found = Vec::new();
    for (name, manifest) in manifests().into_iter().filter(|(_, path)| !path.starts_with("tests/")) {
        let source = format!("{}src/", manifest.trim_end_matches("Cargo.toml"));
        let files = all.iter().filter_map(|(path, text)| Some((path.strip_prefix(&source)?.to_owned(), text.clone())));
        found.extend(circles::circles(&files.collect()).into_iter().map(|circle| format!("{name}: {circle}")));
    }
    assert_none("files that import each other", &found);
}

#[test]
fn files_are_short() {
    let long = rust_files().into_iter().map(|(path, text)| (path, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > FILE_LINES_MAX).map(|(path, lines)| format!("{path}: {lines} lines"));
    assert_none("files are too long", &long.collect::<Vec<_>>());
}

/// First line, name and length of each function; the sources are formatted, so a body ends at its own indentation.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = code(line).split_whitespace().collect();
        let Some(position) = words.iter().position(|word| *word == "fn") else { continue };
        let lead = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "async", "extern", "\"C\""];
        if !words[..position].iter().all(|word| lead.contains(word)) || line.trim_end().ends_with('}') {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let Some(length) = lines[first..].iter().position(|line| *line == end) else { continue };
        let name = words.get(position + 1).map_or("?", |name| name.split(['(', '<']).next().unwrap_or(name));
        found.push((first + 1, name.to_owned(), length + 1));
    }
    found
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for (path, text) in rust_files() {
        let too_long = functions(&text).into_iter().filter(|(_, _, length)| *length > FUNCTION_LINES_MAX);
        long.extend(too_long.map(|(line, name, length)| format!("{path}:{line}: `{name}` has {length} lines")));
    }
    assert_none("functions are too long", &long);
}

#[test]
fn unsafe_stands_only_in_sys_rs() {
    let others =
        rust_files().into_iter().filter(|(path, _)| Path::new(path).file_name().is_some_and(|n| n != "sys.rs"));
    let forms = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
    let own = "tests/tidy.rs";
    let others = others.filter(|(path, _)| path != own).collect();
    let found = lines_where(&others, |line| forms.iter().any(|form| code(line).contains(form)));
    assert_none("`unsafe` outside of a file named sys.rs", &found);
}

#[test]
fn readme_names_every_file_with_unsafe() {
    let all = files();
    let unnamed = all.keys().filter(|path| path.ends_with("/sys.rs") && !all["README.md"].contains(path.as_str()));
    assert_none("the README does not list", &unnamed.cloned().collect::<Vec<_>>());
}

#[test]
fn sources_begin_with_prose() {
    let bare = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path);
    assert_none("files that do not say what they are", &bare.collect::<Vec<_>>());
}

#[test]
fn no_drawers_for_odds_and_ends() {
    let names = ["common", "util", "utils", "helper", "helpers", "misc", "core"];
    let stem = |path: &str| Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let named = files().into_keys().filter(|path| {
        let parent = Path::new(path).parent().and_then(|parent| stem(&parent.to_string_lossy()));
        names.iter().any(|name| stem(path).as_deref() == Some(name) || parent.as_deref() == Some(name))
    });
    assert_none("modules named after nothing", &named.collect::<Vec<_>>());
    let suffixes = ["Manager", "Helper", "Handler"];
    let found = lines_where(&rust_files(), |line| {
        let mut words = code(line).split_whitespace().skip_while(|word| !["struct", "enum", "trait"].contains(word));
        let name = words.nth(1).unwrap_or_default();
        suffixes.iter().any(|suffix| name.trim_end_matches(['{', ';', ' ']).ends_with(suffix))
    });
    assert_none("types named after nothing", &found);
}

#[test]
fn no_test_is_switched_off() {
    let attribute = ["#[", "ignore"].concat();
    assert_none("tests that do not run", &lines_where(&rust_files(), |line| line.contains(&attribute)));
}

#[test]
fn every_todo_says_what_removes_it() {
    let word = ["TO", "DO"].concat();
    let conditions = ["when", "once", "until", "after"];
    let found = lines_where(&rust_files(), |line| {
        line.contains(&word) && !conditions.iter().any(|condition| line.contains(condition))
    });
    assert_none("open ends without an end", &found);
}

#[test]
fn nothing_names_this_machine_or_a_package_registry() {
    // Put together here, so that this file does not hold them itself.
    let words = [["crates", "io"], ["pypi", "org"], ["npmjs", "org"], ["deb.debian", "org"], ["pythonhosted", "org"]];
    let mut words: Vec<String> = words.iter().map(|parts| parts.join(".")).collect();
    words.extend(["wt/", "main/", "shared/", ".library", ".mirror"].map(|rest| ["/work", rest].join("/")));
    words.extend([".cargo", ".cache", ".rustup"].map(|rest| ["/root", rest].join("/")));
    // The lock file is cargo's, and names its own registry.
    let files =
        files().into_iter().filter(|(path, _)| path != "Cargo.lock" && !path.ends_with("/Cargo.lock")).collect();
    let found = lines_where(&files, |line| words.iter().any(|word| line.contains(word.as_str())));
    assert_none("names that mean nothing elsewhere", &found);
}

/// The rows of the list of past vulnerabilities: the number, the columns of the stages, and the tests that are named.
fn vulnerabilities(readme: &str) -> Vec<(usize, Vec<String>, Vec<String>)> {
    let rows = readme.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    let rows = rows.filter_map(|line| {
        let columns: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let number = columns.first()?.parse().ok()?;
        let stages = columns.get(2..5)?.iter().map(|stage| (*stage).to_owned()).collect();
        let tests = columns.get(5)?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((number, stages, tests))
    });
    rows.collect()
}

/// Whether a source has a test of this name: a function with the attribute, or the first word of one of our macros.
fn has_test(source: &str, name: &str) -> bool {
    let function = source.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let before: Vec<&str> = source[..at].lines().rev().map(str::trim).take(3).collect();
        before.contains(&"#[test]") || source[..at].contains("proptest! {")
    });
    let macros = ["stage_test!(", "registry_test!(", "machine_test!("];
    function || macros.iter().any(|open| source.contains(&format!("{open}{name},")))
}

#[test]
fn every_past_vulnerability_has_its_tests() {
    let all = files();
    let rows = vulnerabilities(&all["tests/README.md"]);
    let numbers: Vec<usize> = rows.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=41).collect::<Vec<_>>(), "the list has 41 rows, in order");
    let sources: Vec<&String> = all.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(_, text)| text).collect();
    let mut bad = Vec::new();
    for (number, stages, tests) in &rows {
        let applies = stages.iter().any(|stage| !stage.starts_with("none"));
        if applies == tests.is_empty() {
            bad.push(format!("{number}: a check that applies has a test, and no other has"));
        }
        let missing = tests.iter().filter(|name| !sources.iter().any(|source| has_test(source, name)));
        bad.extend(missing.map(|name| format!("{number}: there is no test `{name}`")));
    }
    assert_none("tests/README.md says what is not so", &bad);
}

#[test]
fn the_rules_see_what_they_look_for() {
    let text = "fn short() {\n    1\n}\n\nimpl A {\n    pub(crate) fn long(\n    ) {\n\n\n    }\n}\n";
    assert_eq!(functions(text), [(1, "short".to_owned(), 3), (6, "long".to_owned(), 5)]);
    let manifest = "[package]\nname = \"x\"\n[dependencies]\ncontract.workspace = true\nnix = { a = 1 }\n[lints]\nworkspace = true\n";
    assert_eq!(dependencies(manifest), ["contract", "nix"]);
    let workspace =
        "[workspace]\na = 1\n[workspace.dependencies]\nx = \"1\"\ny = { path = \"z\" }\n\n[profile.dev]\nw = 1\n";
    assert_eq!(offered(workspace), ["x", "y"]);
}
