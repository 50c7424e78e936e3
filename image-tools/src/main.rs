//! The command `image-tools`: making, signing and looking at images, without a store and without pods.
//!
//! Run by publishers and administrators. It needs no privilege but for `unpack`, which gives files their owners.

mod cli;

use image_tools::escape::{escape, escape_lines};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let (verb, result) = match cli::Arguments::read() {
        Ok(arguments) => (format!("{}: ", arguments.verb()), cli::run(&arguments)),
        Err(result) => (String::new(), result),
    };
    match result {
        Ok(answer) => {
            // Whoever closed the pipe has read enough.
            let _ = std::io::stdout().write_all(escape_lines(&answer).as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("image-tools: {verb}{}", escape(&format!("{:#}", failure.error)));
            if let Some(hint) = failure.hint {
                eprintln!("hint: {}", escape(&hint));
            }
            ExitCode::from(failure.code)
        }
    }
}
