//! Flags of every command, accepted before and after its name.

use crate::values::sets::{Insecure, InsecureWord};
use std::path::PathBuf;

/// Where pod keeps things, and what the user gives up.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Directory of images and pods
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/pod", value_hint = clap::ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Directory of the vendor's configuration
    #[arg(long, global = true, value_name = "DIR", default_value = "/usr/lib/pod", value_hint = clap::ValueHint::DirPath)]
    pub(crate) system_config: PathBuf,
    /// Directory of the administrator's configuration, which overrides the vendor's
    #[arg(long, global = true, value_name = "DIR", default_value = "/etc/pod", value_hint = clap::ValueHint::DirPath)]
    pub(crate) local_config: PathBuf,
    /// Give up protections for this run: image, tls, http, capabilities, paths, seccomp, all-fetch, all-run, all
    #[arg(long, global = true, value_name = "LIST", value_delimiter = ',', value_enum, hide_possible_values = true)]
    pub(crate) insecure_options: Vec<InsecureWord>,
    /// Say more on stderr, and show a microVM's serial console
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

impl Globals {
    /// The words of `--insecure-options` taken together.
    pub(crate) fn insecure(&self) -> Insecure {
        self.insecure_options.iter().fold(Insecure::default(), |insecure, word| insecure.add(*word))
    }
}
