//! The guest's network: loopback, and the card as the pod's network namespace was.

use super::sys;
use anyhow::{Context, Result, bail};
use contract::guest::Network;

/// Brings loopback up, and the card if there is one.
pub(super) fn up(network: Option<&Network>) -> Result<()> {
    sys::interface_up(b"lo").context("bring up the loopback interface")?;
    if network.is_some() {
        bail!("set up the network card: this stage2 does not know how");
    }
    Ok(())
}
