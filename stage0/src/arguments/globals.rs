//! Flags of every command, accepted before and after its name.

use crate::arguments::Action;
use crate::arguments::image_commands::Image;
use crate::arguments::tree::Command;
use crate::arguments::trust_commands::Trust;
use crate::failure::Failure;
use crate::values::sets::{Insecure, InsecureWord};
use clap::ValueEnum;
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
    /// Refuses words of `--insecure-options` that would do nothing for this command: somebody who gives up a protection must not
    /// believe that it was in force until now.
    pub(crate) fn refuse_idle_words(&self, action: &Action) -> Result<(), Failure> {
        let meant = match action {
            Action::Run(_) | Action::Prepare(_) => return Ok(()),
            Action::Command(Command::Fetch(_)) => {
                Insecure { image: true, tls: true, http: true, ..Insecure::default() }
            }
            Action::Command(Command::Image(Image::Push(_)) | Command::Trust(Trust::Add(_))) => {
                Insecure { tls: true, http: true, ..Insecure::default() }
            }
            Action::Command(Command::Config(_)) => return Ok(()),
            _ => Insecure::default(),
        };
        for word in &self.insecure_options {
            let given = Insecure::default().add(*word);
            if given != Insecure::default() && !given.intersects(meant) {
                let shown = word.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
                return Err(Failure::usage(format!("`--insecure-options={shown}` does nothing for this command"))
                    .hint(format!("leave it out of `pod {}`", action.name())));
            }
        }
        Ok(())
    }

    /// The words of `--insecure-options` taken together.
    pub(crate) fn insecure(&self) -> Insecure {
        self.insecure_options.iter().fold(Insecure::default(), |insecure, word| insecure.add(*word))
    }
}
