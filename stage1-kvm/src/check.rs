//! For `pod check`: which kernel, which hypervisor and which helpers a pod of this host would get, and why. It runs the probe's
//! guest and a network of its own, both gone when it ends, and nothing else.

use crate::builtin::probe;
use crate::{host, kernel, kernel_modules, network, qemu};
use anyhow::{Context, Result};
use contract::check::{Line, State};
use contract::text::Advised;
use std::io::Write;

/// Prints the lines as JSON.
pub(crate) fn check() -> Result<()> {
    // The last leaves this process in another network.
    let lines = [kernel(), hypervisor(), host::line(), volumes(), cards()];
    let mut text = serde_json::to_vec(&lines)?;
    text.push(b'\n');
    std::io::stdout().write_all(&text).context("print the answer")
}

fn kernel() -> Line {
    let usual = kernel::usual().and_then(|(path, why)| {
        let modules = kernel_modules::of(&path, false)?.len();
        let modules = if modules == 0 { String::new() } else { format!(", with {modules} modules") };
        Ok(format!("`{}`, {why}{modules}", path.display()))
    });
    line("microVM kernel", usual)
}

/// As [`crate::hypervisor::start`] chooses for `auto`.
fn hypervisor() -> Line {
    let feature = "microVM hypervisor".to_owned();
    match (probe::ask(), qemu::program()) {
        (Ok(()), _) => Line::new(feature, true, "built-in: a probe guest ran on `/dev/kvm`", ""),
        (Err(why), Ok(qemu)) => {
            let detail = format!("`{}` by software emulation, which is slow; no usable KVM: {why:#}", qemu.display());
            Line { feature, state: State::Partly, detail }
        }
        (Err(why), Err(qemu)) => Line::new(feature, false, "", format!("no usable KVM: {why:#}; {}", told(&qemu))),
    }
}

fn volumes() -> Line {
    line("microVM host volumes", qemu::share::program().map(|program| format!("`{program}`")))
}

fn cards() -> Line {
    line("microVM network cards", network::probe().map(|()| "tap devices, joined by nftables' `fwd`".to_owned()))
}

fn line(feature: &str, found: Result<String>) -> Line {
    match found {
        Ok(detail) => Line::new(feature, true, detail, ""),
        Err(error) => Line::new(feature, false, "", told(&error)),
    }
}

/// An error and its advice in one line.
fn told(error: &anyhow::Error) -> String {
    let advice = error.downcast_ref::<Advised>().map(|advised| format!("; {}", advised.hint));
    format!("{error:#}{}", advice.unwrap_or_default())
}
