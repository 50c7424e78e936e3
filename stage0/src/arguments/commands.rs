//! Arguments of the commands other than `run` and `prepare`.

use crate::values::number;
use image_tools::obtain::Platform;
use std::path::PathBuf;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs, on one line.
    Json,
    /// For both.
    JsonPretty,
}

/// `--format`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FormatFlag {
    /// table, json or json-pretty
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    pub(crate) format: Format,
}

/// Pods by name, UUID or the start of one.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PodsArgument {
    /// Name, UUID or the start of a UUID
    #[arg(value_name = "POD")]
    pub(crate) pods: Vec<String>,
    /// Read a UUID from this file (see `run --uuid-file-save`)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) uuid_file: Vec<PathBuf>,
}

/// `pod run-prepared`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunPrepared {
    /// Network that the pod must have been prepared with; `ns:PATH` says here which namespace it joins
    #[arg(long, value_name = "NET", visible_alias = "network")]
    pub(crate) net: Option<String>,
    /// Name, UUID or the start of a UUID
    #[arg(value_name = "POD")]
    pub(crate) pod: String,
}

/// `pod fetch`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fetch {
    /// Images to bring into the store
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// When to ask where an image came from: new, update or never
    #[arg(long, value_name = "POLICY", default_value = "update", value_enum)]
    pub(crate) pull_policy: super::pod_flags::Pull,
    /// Take an image though it is older than the last accepted one of its name and tag, and go on from there
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    /// Fetch for machines of another architecture (`arm64`, `arm/v7`), to keep and to pass on
    #[arg(long, value_name = "ARCH", value_parser = crate::values::architecture::architecture)]
    pub(crate) arch: Option<Platform>,
}

/// `pod list`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct List {
    /// Whole UUIDs, image ids and times
    #[arg(long)]
    pub(crate) full: bool,
    /// Without the line of titles
    #[arg(long)]
    pub(crate) no_legend: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod status`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) pods: PodsArgument,
    /// Wait until the pod has ended
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait until the pod is ready (sd_notify) or its apps run
    #[arg(long)]
    pub(crate) wait_ready: bool,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod stop`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) pods: PodsArgument,
    /// Kill at once
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// Time until SIGKILL follows, instead of the apps' own
    #[arg(long, short = 't', value_name = "TIME", value_parser = number::duration_millis, visible_alias = "time")]
    pub(crate) timeout: Option<u64>,
}

/// `pod rm`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub(crate) pods: PodsArgument,
}

/// `pod gc`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Gc {
    /// How long an ended pod is kept, counted from its end
    #[arg(long, value_name = "TIME", value_parser = number::duration_millis, default_value = "30m")]
    pub(crate) grace_period: u64,
    /// How long a prepared pod is kept
    #[arg(long, value_name = "TIME", value_parser = number::duration_millis, default_value = "24h")]
    pub(crate) expire_prepared: u64,
    /// Only mark, do not delete
    #[arg(long)]
    pub(crate) mark_only: bool,
}

/// `pod cat-manifest`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CatManifest {
    /// Name, UUID or the start of a UUID
    #[arg(value_name = "POD")]
    pub(crate) pod: String,
    /// On several lines
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = crate::values::boolean)]
    pub(crate) pretty_print: bool,
}

/// `pod exec`, also called `enter`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Exec {
    /// App to start it beside, needed if the pod has several
    #[arg(long)]
    pub(crate) app: Option<contract::name::AppName>,
    /// Another user of the image
    #[arg(long, short = 'u', value_name = "USER", value_parser = crate::values::user::spec)]
    pub(crate) user: Option<String>,
    /// Another working directory
    #[arg(long, short = 'w', value_name = "DIR", visible_alias = "workdir")]
    pub(crate) working_dir: Option<String>,
    /// Environment variable, or the name of one of the caller's
    #[arg(long, short = 'e', value_name = "KEY[=VALUE]", value_parser = crate::values::process::environment, visible_alias = "env")]
    pub(crate) environment: Vec<(String, Option<String>)>,
    /// On a terminal of its own (otherwise: if stdin and stdout are terminals)
    #[arg(long, short = 't')]
    pub(crate) tty: bool,
    /// Accepted for those used to it: standard input is always passed
    #[arg(long, short = 'i', hide = true)]
    pub(crate) interactive: bool,
    /// Name, UUID or the start of a UUID
    #[arg(value_name = "POD")]
    pub(crate) pod: String,
    /// Program and arguments (otherwise /bin/sh)
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// `pod check` and `pod config`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Formatted {
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod completion`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Completion {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `pod man`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Man {
    /// Write pod.1, pod-run.1 … into this directory; otherwise pod.1 goes to stdout
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
}
