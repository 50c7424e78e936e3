//! Which file imports which, inside each crate, read from the sources: no two files may import each other. A module and what
//! lies below it count as one place: a parent names its children, and a child its parent's types.

use std::collections::{BTreeMap, BTreeSet};

/// A module's path below its crate.
type Module = Vec<String>;

/// `PATH ↔ PATH` for each two files that import each other. `files` are those of one crate, by path below its `src`.
pub(crate) fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let modules: BTreeMap<Module, &str> = files
        .iter()
        .filter(|(path, _)| !path.ends_with("tests.rs"))
        .map(|(path, text)| (module(path), &**text))
        .collect();
    let imports: BTreeMap<&Module, BTreeSet<Module>> =
        modules.iter().map(|(module, text)| (module, imported(module, text, &modules))).collect();
    let mut found = Vec::new();
    for (one, others) in &imports {
        for other in others.iter().filter(|other| *one < other) {
            let family = one.starts_with(other) || other.starts_with(one);
            if !family && imports[other].contains(*one) {
                found.push(format!("{} ↔ {}", one.join("/"), other.join("/")));
            }
        }
    }
    found
}

/// `a/b.rs`, `a/b/mod.rs` → `a::b`; the root of the crate is empty.
fn module(path: &str) -> Module {
    let parts = path.trim_end_matches(".rs").split('/').map(ToOwned::to_owned);
    let mut parts: Module = parts.collect();
    parts.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    parts
}

fn imported(module: &Module, text: &str, modules: &BTreeMap<Module, &str>) -> BTreeSet<Module> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for statement in code.split("use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        if ["crate::", "super::", "self::"].iter().any(|start| statement.starts_with(start)) {
            expand(&[], statement, &mut paths);
        }
    }
    for start in ["crate::", "super::"] {
        for rest in code.split(start).skip(1) {
            let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            expand(&[start.trim_end_matches(':').to_owned()], &word, &mut paths);
        }
    }
    let resolve =
        |path: &Vec<String>| (0..=path.len()).rev().map(|n| path[..n].to_vec()).find(|p| modules.contains_key(p));
    let found = paths.iter().filter_map(|path| resolve(&absolute(module, path)));
    found.filter(|other| other != module).collect()
}

/// The paths of `a::{b, c::{d, e}}`.
fn expand(prefix: &[String], text: &str, paths: &mut Vec<Vec<String>>) {
    let (head, list) = text.split_once('{').map_or((text, None), |(head, list)| (head, Some(list)));
    let head = head.split(" as ").next().unwrap_or_default();
    let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(ToOwned::to_owned);
    let path: Vec<String> = prefix.iter().cloned().chain(parts).collect();
    let Some(list) = list else { return paths.push(path) };
    let (mut depth, mut item) = (0_usize, String::new());
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => expand(&path, &std::mem::take(&mut item), paths),
            _ => {
                depth = depth + usize::from(character == '{') - usize::from(character == '}');
                item.push(character);
            }
        }
    }
    expand(&path, &item, paths);
}

fn absolute(module: &Module, path: &[String]) -> Module {
    let mut base = if path.first().is_some_and(|first| first == "crate") { Module::new() } else { module.clone() };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            _ => base.push(part.clone()),
        }
    }
    base
}

#[test]
fn the_rule_sees_circles() {
    let files =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    let circle =
        files(&[("lib.rs", ""), ("a.rs", "use crate::{c, b::{X, Y}};\n"), ("b.rs", "fn f() { super::a::g() }")]);
    assert_eq!(circles(&circle), ["a ↔ b"]);
    let deep = files(&[("x/mod.rs", ""), ("x/a.rs", "use super::b::X;"), ("x/b.rs", "use crate::x::a;\nuse std::io;")]);
    assert_eq!(circles(&deep), ["x/a ↔ x/b"]);
    let none = files(&[
        ("a.rs", "mod c;\nuse c::X;\n// use crate::b;"),
        ("a/c.rs", "use super::Y;"),
        ("b.rs", "use crate::a::Y;\n#[cfg(test)]\nmod tests {\n use crate::d;\n}"),
        ("d.rs", "use crate::b::B as C;"),
    ]);
    assert!(circles(&none).is_empty());
}
