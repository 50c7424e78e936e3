//! How a supervisor speaks to its caller: the one place that prints.

use crate::life::Outcome;
use contract::exit;
use contract::text::{self, Advised};
use std::process::ExitCode;

/// The error's chain in one line, and its advice as a second one.
pub fn describe(error: &anyhow::Error) -> String {
    text::describe(error.chain().map(ToString::to_string), error.downcast_ref::<Advised>())
}

/// Prints how the pod ended, and gives the exit code.
pub(crate) fn outcome(outcome: &Outcome) -> ExitCode {
    outcome.messages.iter().for_each(|message| print(message));
    ExitCode::from(outcome.exit)
}

/// Prints a failure of the stage itself.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    print(&describe(error));
    ExitCode::from(exit::FAILURE)
}

fn print(message: &str) {
    eprint!("{}", text::render("run", message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_found_wherever_it_stands() {
        let errno = || anyhow::Error::from(std::io::Error::from_raw_os_error(2));
        let advice = || Advised::new("mount it", "try again");
        assert_eq!(describe(&errno().context(advice())), "mount it: no such file or directory\nhint: try again");
        assert_eq!(describe(&anyhow::Error::from(advice()).context("start")), "start: mount it\nhint: try again");
    }
}
