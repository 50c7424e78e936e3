//! Arguments of `pod trust …`.

use super::commands::FormatFlag;
use clap::ValueHint;
use image_tools::trust::Allow;
use std::path::PathBuf;

/// `pod trust`
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Trust {
    /// Trust a key for a name prefix
    #[command(after_help = "Example:\n  pod trust add --prefix example.com/team release.pub")]
    Add(TrustAdd),
    /// List who may publish what
    #[command(visible_alias = "ls", after_help = "Example:\n  pod trust list --format=json")]
    List(TrustList),
    /// Show the rules that cover a name, the one that decides first
    #[command(after_help = "Example:\n  pod trust show example.com/team/app")]
    Show(TrustShow),
    /// Let signed images of a prefix have more than the defaults
    #[command(after_help = "Example:\n  pod trust allow --prefix example.com/vpn cap:NET_ADMIN")]
    Allow(TrustAllow),
    /// Trust a key no longer
    #[command(visible_alias = "remove")]
    #[command(after_help = "Example:\n  pod trust rm --prefix example.com/team 0FA9CF52D8FF695F")]
    Rm(TrustRemove),
    /// Never count a key's signatures again, whatever rule names it
    #[command(after_help = "Example:\n  pod trust revoke --reason \"laptop stolen\" 0FA9CF52D8FF695F")]
    Revoke(TrustRevoke),
    /// Replace the keys of a prefix by a text signed with its old and new keys
    #[command(after_help = "Example:\n  pod trust rotate example.com-team.rotation")]
    Rotate(TrustFile),
    /// Make rules of a containers-policy.json, all of it or nothing
    #[command(after_help = "Example:\n  pod trust import-policy /etc/containers/policy.json")]
    ImportPolicy(TrustImport),
}

/// Which names a rule is for.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "names", required = true, multiple = false)]
pub(crate) struct Names {
    /// Names that the key may publish: `example.com/app` means that name and all below it
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// The key may publish every image
    #[arg(long)]
    pub(crate) root: bool,
}

/// `pod trust add`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustAdd {
    #[command(flatten)]
    pub(crate) names: Names,
    /// How a PEM key signs: ecdsa-p256, ed25519 or ed25519ph
    #[arg(long, value_name = "SCHEME")]
    pub(crate) scheme: Option<String>,
    /// How many different keys of the rule must have signed
    #[arg(long, value_name = "NUMBER")]
    pub(crate) threshold: Option<usize>,
    /// Signatures made before this time do not count (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) not_before: Option<jiff::Timestamp>,
    /// From this time on the key does not count (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) not_after: Option<jiff::Timestamp>,
    /// Keys of the next less specific rule count too
    #[arg(long)]
    pub(crate) inherit: bool,
    /// Run what the rule refuses, and report it
    #[arg(long)]
    pub(crate) audit: bool,
    /// A note kept with the key
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// Take the key with this fingerprint, as `trust list` shows it, from where the prefix's web server says keys are
    #[arg(long, value_name = "sha256:HEX", conflicts_with = "key")]
    pub(crate) fingerprint: Option<String>,
    /// Key file: minisign form, or PEM for signatures of cosign; without it, keys are looked for on the web
    #[arg(value_name = "KEY.pub", value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
}

/// `pod trust allow`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustAllow {
    #[command(flatten)]
    pub(crate) names: Names,
    /// Allow these words no longer
    #[arg(long)]
    pub(crate) take_back: bool,
    /// cap:NAME, rlimit:NAME, sysctl:KEY, seccomp, oom-score or cpu-shares
    #[arg(value_name = "WORD", required = true)]
    pub(crate) words: Vec<Allow>,
}

/// `pod trust list`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustList {
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod trust show`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustShow {
    /// Image name or prefix
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) format: FormatFlag,
}

/// `pod trust rm`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustRemove {
    #[command(flatten)]
    pub(crate) names: Names,
    /// Key id
    #[arg(value_name = "KEYID")]
    pub(crate) key: String,
}

/// `pod trust revoke`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustRevoke {
    /// Why; shown when the key is met
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    /// Key id
    #[arg(value_name = "KEYID")]
    pub(crate) key: String,
}

/// `pod trust rotate`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustFile {
    /// The signed text
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// `pod trust import-policy`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrustImport {
    /// The policy's default may trust somebody for every image
    #[arg(long)]
    pub(crate) root: bool,
    /// The policy
    #[arg(value_name = "FILE", default_value = "/etc/containers/policy.json", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}
