//! `probe demo`: what an app sees of its isolation, for a person who runs a pod for the first time.

use crate::report::report;
use anyhow::Result;
use serde_json::Value;

/// Prints the page.
pub(crate) fn print() -> Result<()> {
    let report = report()?;
    println!("This app runs in a pod. What it sees from inside:\n");
    for (name, text) in rows(&report) {
        println!("  {name:<14} {text}");
    }
    println!();
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().map(|items| items.iter().map(text).collect()).unwrap_or_default()
}

fn rows(report: &Value) -> Vec<(&'static str, String)> {
    let first = |name: &str| words(&report[name]).first().cloned().unwrap_or_default();
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let processes = report["processes"].as_object().map_or(0, serde_json::Map::len);
    let interfaces = report["interfaces"].as_array().cloned().unwrap_or_default();
    let interfaces: Vec<String> = interfaces.iter().map(|interface| text(&interface["name"])).collect();
    vec![
        ("host name", text(&report["hostname"])),
        ("kernel", text(&report["kernel"])),
        ("process", format!("pid {} of {processes} visible, parent {}", report["pid"], report["parent"])),
        ("user", format!("uid {}, gid {}, groups {:?}", first("uid"), first("gid"), words(&report["groups"]))),
        ("namespaces", namespaces(&report["namespaces"])),
        ("capabilities", capabilities(&report["capabilities"])),
        ("no new privs", if report["no_new_privileges"] == true { "yes" } else { "no" }.to_owned()),
        ("seccomp", seccomp(report)),
        ("root", root(report)),
        ("hidden", hidden(&report["masked"])),
        ("devices", keys(&report["devices"]).join(" ")),
        ("network", interfaces.join(" ")),
        ("open files", report["rlimits"]["RLIMIT_NOFILE"][0].to_string()),
        ("descriptors", keys(&report["descriptors"]).join(" ")),
        ("cgroup", first("cgroup")),
    ]
}

fn namespaces(value: &Value) -> String {
    let all = value.as_object().cloned().unwrap_or_default();
    let wanted = ["pid", "mnt", "ipc", "uts", "net", "cgroup", "user"];
    let inode = |link: &Value| text(link).chars().filter(char::is_ascii_digit).collect::<String>();
    let found = wanted.iter().filter_map(|name| all.get(*name).map(|link| format!("{name} {}", inode(link))));
    found.collect::<Vec<_>>().join(", ")
}

fn capabilities(sets: &Value) -> String {
    let effective = words(&sets["effective"]).len();
    let bounding: Vec<String> =
        words(&sets["bounding"]).iter().map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect();
    format!("{effective} in use, at most {}: {}", bounding.len(), bounding.join(" "))
}

fn seccomp(report: &Value) -> String {
    let mode = match text(&report["seccomp_mode"]).as_str() {
        "2" => "filter",
        "1" => "strict",
        _ => "off",
    };
    let verdicts = report["syscalls"].as_object().cloned().unwrap_or_default();
    let refused = verdicts.values().filter(|verdict| **verdict == "EPERM").count();
    format!("{mode}; {refused} of {} dangerous calls that were tried are refused", verdicts.len())
}

fn root(report: &Value) -> String {
    let mounts = report["mounts"].as_array().cloned().unwrap_or_default();
    let root = mounts.iter().find(|mount| mount["target"] == "/").cloned().unwrap_or_default();
    format!("{}, {}; {} mounts", text(&root["type"]), words(&root["options"]).join(","), mounts.len())
}

fn hidden(masked: &Value) -> String {
    let paths = masked.as_object().cloned().unwrap_or_default();
    let hidden = |look: &Value| look["read"] == "empty" || look["entries"] == 0;
    let hidden = paths.iter().filter(|(_, look)| hidden(look)).map(|(path, _)| path.clone());
    hidden.collect::<Vec<_>>().join(" ")
}
