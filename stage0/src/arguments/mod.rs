//! The command line: argv → typed arguments. All flags are defined here once; help, completion and man pages come from
//! the same definitions. Nothing here looks at the host.

pub(crate) mod app_flags;
pub(crate) mod commands;
pub(crate) mod globals;
pub(crate) mod idle_words;
pub(crate) mod image_commands;
pub(crate) mod pod_flags;
pub(crate) mod split;
pub(crate) mod tree;
pub(crate) mod trust_commands;

use crate::failure::Failure;
use app_flags::AppFlags;
use clap::{Args, FromArgMatches};
use globals::Globals;
use pod_flags::PodFlags;
use split::Flags;
use std::cell::LazyCell;
use tree::{Command, PodCommand};

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Flags of every command.
    pub(crate) globals: Globals,
    /// The command.
    pub(crate) action: Action,
}

/// A command with its arguments.
#[derive(Debug)]
pub(crate) enum Action {
    /// `run`
    Run(PodArguments),
    /// `prepare`
    Prepare(PodArguments),
    /// All others.
    Command(Command),
    /// Text for stdout: `--help`, `--version`.
    Print(String),
}

impl Action {
    /// The command's name, for the first line of an error.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Prepare(_) => "prepare",
            Self::Command(command) => command.name(),
            Self::Print(_) => "help",
        }
    }
}

/// A pod as the command line describes it.
#[derive(Debug)]
pub(crate) struct PodArguments {
    /// Flags of the pod.
    pub(crate) pod: PodFlags,
    /// In order; at least one.
    pub(crate) apps: Vec<AppArguments>,
}

/// One app as the command line describes it.
#[derive(Debug)]
pub(crate) struct AppArguments {
    /// As typed.
    pub(crate) image: String,
    /// Flags of the app.
    pub(crate) flags: AppFlags,
    /// For its program.
    pub(crate) arguments: Vec<String>,
}

/// Parses argv, without the program's name. The error carries the command's name for the first line of the report.
pub(crate) fn parse(argv: &[String]) -> Result<Arguments, (Option<&'static str>, Failure)> {
    // Only `run` and `prepare` have a grammar that clap has not; and only `run` is in a hurry, so it gets no more of clap
    // than its own flags.
    match pod_command(argv) {
        Some((index, name)) => {
            let tokens: Vec<String> =
                argv.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, t)| t.clone()).collect();
            parse_pod(&tokens, name).map_err(|failure| (Some(name), failure))
        }
        None => tree::parse(argv),
    }
}

fn parse_pod(tokens: &[String], name: &'static str) -> Result<Arguments, Failure> {
    let pod_command = tree::pod_flags(name);
    let pod_flags = Flags::of(&pod_command);
    // Most starts have no flag after the image, and then nothing of this is needed.
    let app = LazyCell::new(|| {
        let command = tree::app_flags(name);
        (Flags::of(&command), command)
    });
    let split = split::split(tokens, &|flag| pod_flags.takes_value(flag), &|flag| app.0.takes_value(flag))?;
    if split.help {
        let globals = matches::<Globals>(pod_command, &[], name)?;
        let long = tokens.iter().any(|token| token == "--help");
        return Ok(Arguments { globals, action: Action::Print(tree::help(name, long)) });
    }
    let pod_matches = pod_command.try_get_matches_from(&split.flags).map_err(|error| tree::failure(&error, name))?;
    let of_clap = |error: clap::Error| tree::failure(&error, name);
    let globals = Globals::from_arg_matches(&pod_matches).map_err(of_clap)?;
    let pod = PodFlags::from_arg_matches(&pod_matches).map_err(of_clap)?;
    let mut apps = Vec::with_capacity(split.segments.len());
    for segment in split.segments {
        let flags = match segment.flags.as_slice() {
            [] => AppFlags::default(),
            flags => matches::<AppFlags>(app.1.clone(), flags, name)?,
        };
        apps.push(AppArguments { image: segment.image, flags, arguments: segment.arguments });
    }
    if apps.is_empty() {
        return Err(
            Failure::usage("must provide at least one image").hint(format!("`pod {name} demo` needs nothing else"))
        );
    }
    let arguments = PodArguments { pod, apps };
    let action = if name == PodCommand::RUN { Action::Run(arguments) } else { Action::Prepare(arguments) };
    Ok(Arguments { globals, action })
}

fn matches<T: Args>(command: clap::Command, flags: &[String], name: &'static str) -> Result<T, Failure> {
    let of_clap = |error: clap::Error| tree::failure(&error, name);
    let matches = command.try_get_matches_from(flags).map_err(of_clap)?;
    T::from_arg_matches(&matches).map_err(of_clap)
}

/// Where `run` or `prepare` stands, if the first word that is not a flag or a flag's value is one of them.
fn pod_command(argv: &[String]) -> Option<(usize, &'static str)> {
    let first = argv.first()?;
    let index = if first.starts_with('-') {
        let flags = Flags::of(&tree::pod_flags(PodCommand::RUN));
        let mut index = 0;
        while argv.get(index)?.starts_with('-') {
            let token = argv[index].trim_start_matches('-');
            index += if flags.takes_value(token) == Some(true) { 2 } else { 1 };
        }
        index
    } else {
        0
    };
    PodCommand::named(argv.get(index)?).map(|name| (index, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&argv).map_err(|(_, failure)| failure.to_string())
    }

    fn run(line: &str) -> (Globals, PodArguments) {
        match parsed(line).unwrap() {
            Arguments { globals, action: Action::Run(arguments) } => (globals, arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in ["--dir /x run a", "run --dir /x a", "run a --dir=/x", "run a --user 5 --dir /x -- y"] {
            assert_eq!(run(line).0.dir, std::path::Path::new("/x"), "{line}");
        }
        assert!(run("run --insecure-options=image,paths a").0.insecure().paths);
        assert!(run("--insecure-options image run a").0.insecure().image);
    }

    #[test]
    fn names_belong_to_pod_or_app_by_place() {
        let (_, arguments) = run("run --name p --memory 64M a --name x --memory 32M --- b");
        assert_eq!(arguments.pod.name.map(String::from).as_deref(), Some("p"));
        assert_eq!(arguments.pod.limits.memory, Some(64 << 20));
        assert_eq!(arguments.apps[0].flags.name.as_ref().map(contract::name::AppName::as_str), Some("x"));
        assert_eq!(arguments.apps[0].flags.limits.memory, Some(32 << 20));
        assert_eq!(arguments.apps[1].flags.limits.memory, None);
    }

    #[test]
    fn bad_values_are_one_sentence() {
        for line in [
            "run --memory 1X a",
            "run a --user 0x0",
            "run --volume data a",
            "run",
            "run --net",
            "run a --caps-retain=FOO",
            "run --memory 64M --memory 32M a",
            "lsit",
            "image lsit",
            "stop --colour x",
        ] {
            let error = parsed(line).unwrap_err();
            assert!(!error.contains('\n') && !error.is_empty(), "{line}: {error:?}");
        }
    }

    #[test]
    fn no_flags_mean_what_clap_means_by_none() {
        let parsed = matches::<AppFlags>(tree::app_flags("run"), &[], "run").unwrap();
        assert_eq!(format!("{parsed:?}"), format!("{:?}", AppFlags::default()));
    }

    #[test]
    fn other_commands() {
        for line in [
            "list --format=json",
            "image list",
            "status --wait x",
            "trust list",
            "exec x -- ls -l",
            "exec x ls -l",
            "gc --grace-period=0s",
            "im li",
        ] {
            assert!(matches!(parsed(line), Ok(Arguments { action: Action::Command(_), .. })), "{line}");
        }
        for line in ["--help", "run --help", "image --help", "--version", "-h", "prepare -h"] {
            assert!(matches!(parsed(line), Ok(Arguments { action: Action::Print(_), .. })), "{line}");
        }
    }
}
