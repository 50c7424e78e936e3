//! Flags of one app; they follow its image.

use super::pod_flags::LimitFlags;
use crate::values::device::{self, DeviceFlag};
use crate::values::mount::{self, MountFlag};
use crate::values::process::{self, Stdin};
use crate::values::sets::{self, LabelFlag, SeccompFlag};
use crate::values::volume::{self, VolumeFlag};
use crate::values::{key_value, limit, number, signal, user};
use contract::kernel::Capability;
use contract::name::AppName;
use contract::pod::{Restart, Rlimit, Tmpfs};

/// What is said about one app, after its image.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "App options (after the image they are for)")]
pub(crate) struct AppFlags {
    /// Name of the app (otherwise from the image's name)
    #[arg(long)]
    pub(crate) name: Option<AppName>,
    /// Program to run instead of the image's; replaces its arguments too
    #[arg(long, value_name = "PROGRAM", visible_alias = "entrypoint")]
    pub(crate) exec: Option<String>,
    /// User: name, number, path in the image whose owner is meant, or USER:GROUP
    #[arg(long, short = 'u', value_name = "USER", value_parser = user::user_and_group)]
    pub(crate) user: Option<(String, Option<String>)>,
    /// Group: name, number, or path in the image whose group is meant
    #[arg(long, value_name = "GROUP", value_parser = user::spec)]
    pub(crate) group: Option<String>,
    /// Further group ids
    #[arg(long, value_name = "GID", value_delimiter = ',', value_parser = user::gid, visible_alias = "group-add")]
    pub(crate) supplementary_gids: Vec<u32>,
    /// Working directory
    #[arg(long, short = 'w', value_name = "DIR", visible_alias = "workdir")]
    pub(crate) working_dir: Option<String>,
    /// Environment variable, or the name of one of the caller's
    #[arg(long, short = 'e', value_name = "KEY[=VALUE]", value_parser = process::environment, visible_alias = "env")]
    pub(crate) environment: Vec<(String, Option<String>)>,
    /// Mount a volume: `volume=NAME,target=PATH[,readOnly=true]`
    #[arg(long, value_name = "MOUNT", value_parser = mount::parse)]
    pub(crate) mount: Vec<MountFlag>,
    /// Volume for this app alone: `/HOST:/TARGET[:ro]` or `NAME:/TARGET`
    #[arg(long, short = 'v', value_name = "VOLUME", value_parser = volume::parse)]
    pub(crate) volume: Vec<VolumeFlag>,
    /// Fresh tmpfs: `PATH[:size=64M,mode=1777]`
    #[arg(long, value_name = "TMPFS", value_parser = mount::tmpfs)]
    pub(crate) tmpfs: Vec<Tmpfs>,
    /// Device of the host: `HOST[:PATH][:rwm]`
    #[arg(long, value_name = "DEVICE", value_parser = device::parse)]
    pub(crate) device: Vec<DeviceFlag>,
    /// The app cannot write to its root
    #[arg(long, visible_alias = "read-only", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = crate::values::boolean)]
    pub(crate) readonly_rootfs: Option<bool>,
    /// Exactly these capabilities
    #[arg(long, value_name = "LIST", visible_alias = "cap-retain", value_parser = sets::capabilities)]
    pub(crate) caps_retain: Vec<Vec<Capability>>,
    /// The default capabilities but these
    #[arg(long, value_name = "LIST", visible_alias = "caps-drop", value_parser = sets::capabilities)]
    pub(crate) caps_remove: Vec<Vec<Capability>>,
    /// Further capabilities, or `all`
    #[arg(long, value_name = "LIST", value_parser = sets::capabilities)]
    pub(crate) cap_add: Vec<Vec<Capability>>,
    /// Fewer capabilities, or `all`; what --cap-add names stays
    #[arg(long, value_name = "LIST", value_parser = sets::capabilities)]
    pub(crate) cap_drop: Vec<Vec<Capability>>,
    /// Filter: `[mode=retain|remove,][errno=EPERM|kill,]NAME,@GROUP…`, `default` or `unconfined`
    #[arg(long, value_name = "FILTER", value_parser = sets::seccomp)]
    pub(crate) seccomp: Option<SeccompFlag>,
    /// AppArmor profile: the name of a loaded one, or `unconfined` (otherwise `pod-default` where that is loaded)
    #[arg(long, value_name = "PROFILE", value_parser = sets::apparmor)]
    pub(crate) apparmor: Option<LabelFlag>,
    /// SELinux context, or `unconfined` (otherwise the policy's for containers, with categories of the pod)
    #[arg(long, value_name = "CONTEXT", value_parser = sets::selinux)]
    pub(crate) selinux: Option<LabelFlag>,
    /// Programs cannot gain privileges by set-user-id or file capabilities
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = crate::values::boolean)]
    pub(crate) no_new_privs: Option<bool>,
    /// Resource limit: `nofile=1024[:4096]`
    #[arg(long, value_name = "LIMIT", value_parser = limit::rlimit, visible_alias = "ulimit")]
    pub(crate) rlimit: Vec<Rlimit>,
    /// How readily the kernel kills it when memory is short, -1000 to 1000
    #[arg(long, value_name = "NUMBER", value_parser = process::oom_score_adj, allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<i32>,
    /// Start it again when it ends: `no`, `on-failure[:ATTEMPTS]`, `always`, each with `,delay=TIME`
    #[arg(long, value_name = "POLICY", value_parser = process::restart)]
    pub(crate) restart: Option<Restart>,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub(crate) stop_signal: Option<i32>,
    /// Time until SIGKILL follows
    #[arg(long, value_name = "TIME", value_parser = number::duration_millis, visible_alias = "stop-grace")]
    pub(crate) stop_timeout: Option<u64>,
    /// Standard input: `null` or `inherit`
    #[arg(long, value_name = "STDIN", value_parser = process::stdin)]
    pub(crate) stdin: Option<Stdin>,
    /// The app says by sd_notify when it is ready
    #[arg(long, visible_alias = "sdnotify")]
    pub(crate) notify: bool,
    /// Free text, shown by `pod status`
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) annotation: Vec<(String, String)>,
    /// Limits of the app.
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
}
