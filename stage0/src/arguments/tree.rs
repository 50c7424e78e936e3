//! The tree of commands, for parsing, help, completion and man pages.

use super::app_flags::AppFlags;
use super::commands::{
    CatManifest, Completion, Exec, Fetch, Formatted, Gc, List, Man, Remove, RunPrepared, Status, Stop,
};
use super::globals::Globals;
use super::image_commands::Image;
use super::pod_flags::PodFlags;
use super::trust_commands::Trust;
use super::{Action, Arguments};
use crate::failure::Failure;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser};

#[derive(Debug, Parser)]
#[command(
    name = "pod",
    version,
    about = "Runs pods of apps from signed images, without a daemon",
    disable_help_subcommand = true,
    infer_subcommands = true,
    max_term_width = 120
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run a pod of one or more images, in the foreground
    #[command(after_help = "Examples:\n  pod run demo\n  \
        pod run --net=host example.com/web --memory 64M -- --port 8080\n  \
        pod run --volume data,kind=host,source=/srv db.pod --mount volume=data,target=/data --- web.pod\n  \
        pod run --stage1=kvm --interactive example.com/shell")]
    Run(PodCommand),
    /// Make a pod ready to run, and print its UUID
    #[command(after_help = "Example:\n  pod prepare --name web example.com/web && pod run-prepared web")]
    Prepare(PodCommand),
    /// Run a pod that `prepare` made
    #[command(after_help = "Example:\n  pod run-prepared web")]
    RunPrepared(RunPrepared),
    /// Bring images into the store, and print their ids
    #[command(
        after_help = "Examples:\n  pod fetch docker://redis:7 example.com/app:1.2\n  pod fetch docker-archive:app.tar"
    )]
    Fetch(Fetch),
    /// List pods
    #[command(visible_alias = "ps")]
    #[command(after_help = "Examples:\n  pod list\n  pod list --format=json")]
    List(List),
    /// Show the state of pods and how their apps ended
    #[command(after_help = "Examples:\n  pod status web\n  pod status --wait --uuid-file=/run/web.uuid")]
    Status(Status),
    /// Stop running pods, and wait until they have ended
    #[command(after_help = "Examples:\n  pod stop web\n  pod stop --timeout=30s 5c1f 9d02")]
    Stop(Stop),
    /// Remove pods that do not run
    #[command(after_help = "Examples:\n  pod rm web\n  pod rm --uuid-file=/run/web.uuid")]
    Rm(Remove),
    /// Remove pods that have ended, and all they held of the host
    #[command(after_help = "Examples:\n  pod gc\n  pod gc --grace-period=0s")]
    Gc(Gc),
    /// Start a program in a running pod, confined as the app is
    #[command(visible_alias = "enter")]
    #[command(after_help = "Examples:\n  pod exec web\n  pod exec --app=db --user=postgres web -- psql -l")]
    Exec(Exec),
    /// Print a pod's pod.json
    #[command(after_help = "Example:\n  pod cat-manifest web")]
    CatManifest(CatManifest),
    /// Images of the store
    #[command(subcommand)]
    Image(Image),
    /// Who may publish which images
    #[command(subcommand)]
    Trust(Trust),
    /// What this host can do: a line for each feature that a pod may ask for
    #[command(after_help = "Example:\n  pod check")]
    Check(Formatted),
    /// Print the configuration in effect
    #[command(after_help = "Example:\n  pod config --format=json")]
    Config(Formatted),
    /// Print versions
    #[command(after_help = "Example:\n  pod version")]
    Version(Formatted),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  pod completion bash >/etc/bash_completion.d/pod")]
    Completion(Completion),
    /// Write the manual pages
    #[command(after_help = "Examples:\n  pod man | man -l -\n  pod man /usr/local/share/man/man1")]
    Man(Man),
}

impl Command {
    /// As it is typed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Prepare(_) => "prepare",
            Self::RunPrepared(_) => "run-prepared",
            Self::Fetch(_) => "fetch",
            Self::List(_) => "list",
            Self::Status(_) => "status",
            Self::Stop(_) => "stop",
            Self::Rm(_) => "rm",
            Self::Gc(_) => "gc",
            Self::Exec(_) => "exec",
            Self::CatManifest(_) => "cat-manifest",
            Self::Image(_) => "image",
            Self::Trust(_) => "trust",
            Self::Check(_) => "check",
            Self::Config(_) => "config",
            Self::Version(_) => "version",
            Self::Completion(_) => "completion",
            Self::Man(_) => "man",
        }
    }
}

/// `run` and `prepare` in the tree: documented here, parsed by [`super::split`].
#[derive(Debug)]
pub(crate) struct PodCommand;

impl PodCommand {
    /// The command that is in a hurry.
    pub(crate) const RUN: &'static str = "run";
    const PREPARE: &'static str = "prepare";

    /// The whole name of a word that means one of the two.
    pub(crate) fn named(word: &str) -> Option<&'static str> {
        match word {
            Self::RUN => Some(Self::RUN),
            "pre" | "prep" | "prepa" | "prepar" | Self::PREPARE => Some(Self::PREPARE),
            _ => None,
        }
    }
}

impl FromArgMatches for PodCommand {
    fn from_arg_matches(_: &clap::ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }
    fn update_from_arg_matches(&mut self, _: &clap::ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

impl Args for PodCommand {
    fn augment_args(command: clap::Command) -> clap::Command {
        let mut command = PodFlags::augment_args(command);
        let known: Vec<String> = command.get_arguments().map(|argument| argument.get_id().to_string()).collect();
        let app = AppFlags::augment_args(clap::Command::new("app"));
        for argument in app.get_arguments().filter(|argument| !known.contains(&argument.get_id().to_string())) {
            command = command.arg(argument.clone());
        }
        let images = Arg::new("images")
            .value_name("IMAGE [APP OPTIONS] [-- ARGUMENTS [---]]")
            .num_args(1..)
            .required(true)
            .help("An image's id, name, file or source, the app's options, and its arguments between `--` and `---`");
        command.arg(images)
    }
    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The pod's and the global flags, without the rest of the tree.
pub(crate) fn pod_flags(name: &'static str) -> clap::Command {
    let command = clap::Command::new(name).no_binary_name(true).disable_help_flag(true);
    Globals::augment_args(PodFlags::augment_args(command))
}

/// The flags of one app.
pub(crate) fn app_flags(name: &'static str) -> clap::Command {
    AppFlags::augment_args(clap::Command::new(name).no_binary_name(true).disable_help_flag(true))
}

/// The whole tree, for completion and man pages.
pub(crate) fn whole() -> clap::Command {
    Cli::command()
}

/// The help text of one command.
pub(crate) fn help(name: &str, long: bool) -> String {
    let flag = if long { "--help" } else { "-h" };
    match Cli::command().try_get_matches_from(["pod", name, flag]) {
        Err(error) => error.render().to_string(),
        Ok(_) => String::new(),
    }
}

/// Parses everything but `run` and `prepare`.
pub(crate) fn parse(argv: &[String]) -> Result<Arguments, (Option<&'static str>, Failure)> {
    let words = std::iter::once("pod").chain(argv.iter().map(String::as_str));
    let parsed = Cli::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(Cli { globals, command }) => Ok(Arguments { globals, action: Action::Command(command) }),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let globals = Globals::from_arg_matches(&pod_flags("pod").get_matches_from(Vec::<String>::new()));
            let globals = globals.map_err(|error| (None, failure(&error, "")))?;
            Ok(Arguments { globals, action: Action::Print(error.render().to_string()) })
        }
        Err(error) => Err((None, failure(&error, ""))),
    }
}

/// clap's report, as one sentence and a hint.
pub(crate) fn failure(error: &clap::Error, command: &str) -> Failure {
    let text = error.render().to_string();
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = match (error.kind(), error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand, ..) => {
            "missing command".to_owned()
        }
        (ErrorKind::ValueValidation, Some(ContextValue::String(flag)), _) => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            let flag = flag.split_whitespace().next().unwrap_or(flag);
            format!("`{flag}`: {reason}")
        }
        _ => first.join(" ").trim_start_matches("error: ").to_owned(),
    };
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let usage = if command.is_empty() {
        "`pod --help` lists the commands".to_owned()
    } else {
        format!("see `pod {command} --help`")
    };
    let message = crate::escape::escape(&message).into_owned();
    Failure::usage(message).hint(tip.map_or(usage, |tip| crate::escape::escape(tip).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        // clap's own checks: unique flags, aliases, shorts.
        whole().debug_assert();
        pod_flags("run").debug_assert();
        app_flags("run").debug_assert();
    }

    /// Every command that has no commands of its own, and its words.
    fn leaves(command: &clap::Command, words: &str) -> Vec<(String, clap::Command)> {
        let below = |sub: &clap::Command| leaves(sub, &format!("{words} {}", sub.get_name()));
        let found: Vec<_> = command.get_subcommands().flat_map(below).collect();
        if found.is_empty() { vec![(words.to_owned(), command.clone())] } else { found }
    }

    #[test]
    fn help_says_what_a_command_does_and_shows_it() {
        for (words, mut command) in leaves(&whole(), "pod") {
            let about = command.get_about().expect("every command says what it does").to_string();
            let help = command.render_help().to_string();
            assert!(help.starts_with(&about) && !about.starts_with('`'), "{words}: {help}");
            let examples = help.split_once("Example").unwrap_or_else(|| panic!("{words} has no example: {help}")).1;
            assert!(examples.contains(&format!("\n  {words}")), "{words}: {examples}");
        }
    }

    #[test]
    fn help_shows_flags_of_pod_and_app() {
        let text = help("run", true);
        for flag in ["--net", "--user", "--memory", "--dir", "--kernel"] {
            assert!(text.contains(flag), "{flag}");
        }
    }
}
