//! The little languages of flag values: sizes, times, volumes, users. Each parser takes a string and gives a type or one
//! sentence that says what is wrong; none of them looks at the host.

pub(crate) mod architecture;
pub(crate) mod device;
pub(crate) mod limit;
pub(crate) mod mount;
pub(crate) mod number;
pub(crate) mod path;
pub(crate) mod process;
pub(crate) mod sets;
pub(crate) mod signal;
pub(crate) mod user;
pub(crate) mod volume;

/// Splits `key=value`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) => Err(format!("`{}` has no name before `=`", text.escape_debug())),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!("`{}` is not of the form KEY=VALUE", text.escape_debug())),
    }
}

/// `true`, `false` and their usual spellings.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "1" | "on" => Ok(true),
        "false" | "no" | "0" | "off" => Ok(false),
        _ => Err(format!("`{}` is neither true nor false", text.escape_debug())),
    }
}
