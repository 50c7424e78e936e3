//! What of this host weakens the wall between its guests, for `pod check`: nothing that a pod could change, but its operator.

use contract::check::{Line, State};
use std::fs;
use std::path::Path;

/// As the kernel tells it.
#[derive(Debug)]
struct Host {
    /// The module of KVM, if it offers nested virtualization.
    nested: Option<&'static str>,
    /// The kernel merges equal pages of processes that offer them.
    merges_pages: bool,
    /// Each file of `/sys/devices/system/cpu/vulnerabilities`, with its text.
    vulnerabilities: Vec<(String, String)>,
}

/// The line of the host.
pub(crate) fn line() -> Line {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let nested = ["kvm_intel", "kvm_amd"]
        .into_iter()
        .find(|module| matches!(read(&format!("/sys/module/{module}/parameters/nested")).as_str(), "1" | "Y"));
    let directory = Path::new("/sys/devices/system/cpu/vulnerabilities");
    let mut vulnerabilities: Vec<(String, String)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path().to_string_lossy())))
        .collect();
    vulnerabilities.sort();
    told(&Host { nested, merges_pages: read("/sys/kernel/mm/ksm/run") == "1", vulnerabilities })
}

fn told(host: &Host) -> Line {
    let vulnerable: Vec<&str> = host
        .vulnerabilities
        .iter()
        // Also "Mitigation: …; SMT vulnerable" and "KVM: Vulnerable".
        .filter(|(_, text)| text.to_lowercase().contains("vulnerable"))
        .map(|(name, _)| name.as_str())
        .collect();
    let mut words = vec![match host.nested {
        Some(module) => format!("nested virtualization on (`{module}`), which no guest of ours is given"),
        None => "nested virtualization off".to_owned(),
    }];
    words.push(match host.merges_pages {
        true => "KSM merges pages (/sys/kernel/mm/ksm/run), though no guest's of ours".to_owned(),
        false => "KSM off".to_owned(),
    });
    words.push(match (host.vulnerabilities.is_empty(), vulnerable.as_slice()) {
        (true, _) => "the kernel does not say what the CPU is vulnerable to".to_owned(),
        (false, []) => "CPU not vulnerable to what its kernel knows".to_owned(),
        (false, names) => format!("CPU vulnerable: {}", names.join(" ")),
    });
    let state = if vulnerable.is_empty() && !host.vulnerabilities.is_empty() { State::Yes } else { State::Partly };
    Line { feature: "microVM host".to_owned(), state, detail: words.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let of = |texts: &[(&str, &str)]| texts.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        for (nested, merges_pages, vulnerabilities, state, detail) in [
            (
                None,
                false,
                of(&[("l1tf", "Not affected"), ("spectre_v2", "Mitigation: Retpolines")]),
                State::Yes,
                "nested virtualization off; KSM off; CPU not vulnerable to what its kernel knows",
            ),
            (
                Some("kvm_amd"),
                true,
                of(&[
                    ("itlb_multihit", "KVM: Vulnerable"),
                    ("mds", "Mitigation: Clear CPU buffers; SMT vulnerable"),
                    ("meltdown", "Not affected"),
                    ("srso", "Vulnerable: Safe RET, no microcode"),
                ]),
                State::Partly,
                "nested virtualization on (`kvm_amd`), which no guest of ours is given; KSM merges pages \
                 (/sys/kernel/mm/ksm/run), though no guest's of ours; CPU vulnerable: itlb_multihit mds srso",
            ),
            (
                None,
                false,
                Vec::new(),
                State::Partly,
                "nested virtualization off; KSM off; the kernel does not say what the CPU is vulnerable to",
            ),
        ] {
            let line = told(&Host { nested, merges_pages, vulnerabilities });
            assert_eq!((line.state, line.detail.as_str()), (state, detail));
        }
    }
}
