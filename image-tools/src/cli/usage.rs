//! Words that make no sense: clap's report as one sentence and a hint, like every other error.

use super::{Failure, USAGE};
use anyhow::anyhow;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What `--help` and `--version` print, or why nothing is done.
pub(super) fn answer(error: &clap::Error) -> Result<String, Failure> {
    let text = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Ok(text);
    }
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let argument = error.get(ContextKind::InvalidArg);
    let message = match (error.kind(), argument) {
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand, _) => {
            "missing command".to_owned()
        }
        (ErrorKind::ValueValidation, Some(ContextValue::String(argument))) => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("`{}`: {reason}", argument.split_whitespace().next().unwrap_or(argument))
        }
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) => {
            let words: Vec<&str> = missing.iter().map(|word| word.trim_end_matches("...")).collect();
            format!("missing {}", words.join(" "))
        }
        _ => first.join(" ").trim_start_matches("error: ").to_owned(),
    };
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let hint = tip.unwrap_or("`image-tools --help` lists the commands, `image-tools COMMAND --help` their words");
    let shown = |text: &str| text.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"");
    Err(Failure { error: anyhow!(shown(&message)), hint: Some(shown(hint)), code: USAGE })
}
