//! `cargo xtask bench`: tables of medians and ratios, ours beside the peers in one run.

use anyhow::{Result, bail};

pub(crate) fn bench(_tables: &[String]) -> Result<()> {
    bail!("there is no table yet")
}
