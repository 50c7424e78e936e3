//! The grammar of several apps on one command line, around clap: POD-FLAGS IMAGE APP-FLAGS -- ARGS --- IMAGE …
//!
//! clap knows the flags and their values; which image a flag is for, and where an app's own arguments start and end,
//! is decided here. The order matters to users of rkt, so it is a table of tests and not a property of a parser.

use crate::failure::Failure;

/// One image with what follows it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Segment {
    /// As it was typed.
    pub(crate) image: String,
    /// Flags of the app, each with its value in one token.
    pub(crate) flags: Vec<String>,
    /// What stands between `--` and `---`.
    pub(crate) arguments: Vec<String>,
}

/// A command line of `run` or `prepare`, taken apart.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Split {
    /// Flags of the pod, and global ones.
    pub(crate) flags: Vec<String>,
    /// In order.
    pub(crate) segments: Vec<Segment>,
    /// `--help` or `-h` stood outside the apps' arguments.
    pub(crate) help: bool,
}

/// Which flags there are, and which of them take the next token as their value.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// A list, because it is built for each start and searched a few times only.
    takes_value: Vec<(String, bool)>,
}

impl Flags {
    /// From clap's definitions, so that there is one list of flags.
    pub(crate) fn of(command: &clap::Command) -> Self {
        let mut takes_value = Vec::with_capacity(128);
        for argument in command.get_arguments().filter(|argument| !argument.is_positional()) {
            let value = argument.get_action().takes_values() && !argument.is_require_equals_set();
            let longs = argument.get_long().into_iter().chain(argument.get_all_aliases().unwrap_or_default());
            takes_value.extend(longs.map(|long| (long.to_owned(), value)));
            let shorts = argument.get_short().into_iter().chain(argument.get_all_short_aliases().unwrap_or_default());
            takes_value.extend(shorts.map(|short| (short.to_string(), value)));
        }
        Self { takes_value }
    }

    /// `None`: no such flag.
    pub(crate) fn takes_value(&self, name: &str) -> Option<bool> {
        self.takes_value.iter().find(|(known, _)| known == name).map(|(_, takes)| *takes)
    }
}

/// The answer of [`Flags::takes_value`], asked only when it is needed.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// Takes the tokens after the command's name apart.
pub(crate) fn split(tokens: &[String], pod: Lookup<'_>, app: Lookup<'_>) -> Result<Split, Failure> {
    let mut split = Split::default();
    let mut rest = tokens.iter();
    let mut had_arguments = false;
    while let Some(token) = rest.next() {
        match token.as_str() {
            // Scripts leave an empty string where a variable was not set; `---` closes arguments that may be absent.
            "" | "---" => {}
            "--help" | "-h" => split.help = true,
            "--" => {
                let segment = split
                    .segments
                    .last_mut()
                    .ok_or_else(|| Failure::usage("an image is required before any app arguments"))?;
                if std::mem::replace(&mut had_arguments, true) {
                    return Err(Failure::usage("only one set of app arguments is allowed for each image"));
                }
                segment.arguments.extend(rest.by_ref().take_while(|token| *token != "---").cloned());
            }
            flag if flag.len() > 1 && flag.starts_with('-') => take_flag(flag, &mut rest, pod, app, &mut split)?,
            image => {
                split.segments.push(Segment { image: image.to_owned(), ..Segment::default() });
                had_arguments = false;
            }
        }
    }
    Ok(split)
}

fn take_flag<'a>(
    token: &str,
    rest: &mut impl Iterator<Item = &'a String>,
    pod: Lookup<'_>,
    app: Lookup<'_>,
    split: &mut Split,
) -> Result<(), Failure> {
    if let Some(long) = token.strip_prefix("--") {
        let name = long.split('=').next().unwrap_or(long);
        let (takes, flags) = owner(token, name, pod, app, split)?;
        let whole = if takes && name == long { format!("{token}={}", value(token, rest)?) } else { token.to_owned() };
        flags.push(whole);
        return Ok(());
    }
    let cluster = &token[1..];
    for (index, short) in cluster.char_indices() {
        let name = short.to_string();
        let (takes, flags) = owner(token, &name, pod, app, split)?;
        let inline = &cluster[index + short.len_utf8()..];
        if !takes {
            flags.push(format!("-{short}"));
        } else {
            let value = if inline.is_empty() { value(token, rest)? } else { inline };
            flags.push(format!("-{short}={}", value.strip_prefix('=').filter(|_| !inline.is_empty()).unwrap_or(value)));
            break;
        }
    }
    Ok(())
}

/// Whose flag it is here: after an image first the app's, then the pod's.
fn owner<'s>(
    token: &str,
    name: &str,
    pod: Lookup<'_>,
    app: Lookup<'_>,
    split: &'s mut Split,
) -> Result<(bool, &'s mut Vec<String>), Failure> {
    let shown = token.split('=').next().unwrap_or(token).escape_debug().to_string();
    let of_app = if split.segments.is_empty() && pod(name).is_some() { None } else { app(name) };
    match (split.segments.last_mut(), of_app, pod(name)) {
        (Some(segment), Some(takes), _) => Ok((takes, &mut segment.flags)),
        (_, _, Some(takes)) => Ok((takes, &mut split.flags)),
        (None, Some(_), None) => Err(Failure::usage(format!("`{shown}` must follow an image"))
            .hint(format!("it is a flag of one app: `pod run IMAGE {shown} …`"))),
        (_, None, None) => Err(Failure::usage(format!("unknown flag `{shown}`"))
            .hint("`pod run --help` lists the flags; arguments of the app stand after `--`")),
    }
}

fn value<'a>(token: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<&'a str, Failure> {
    rest.next().map(String::as_str).ok_or_else(|| Failure::usage(format!("`{}` needs a value", token.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(list: &[(&str, bool)]) -> Flags {
        Flags { takes_value: list.iter().map(|(name, takes)| ((*name).to_owned(), *takes)).collect() }
    }

    fn run(line: &str) -> Result<Split, Failure> {
        let tokens: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let pod = flags(&[("name", true), ("net", true), ("interactive", false), ("i", false), ("v", true)]);
        let app = flags(&[("name", true), ("user", true), ("u", true), ("readonly-rootfs", false), ("e", true)]);
        split(&tokens, &|name| pod.takes_value(name), &|name| app.takes_value(name))
    }

    fn shown(line: &str) -> String {
        let split = run(line).unwrap();
        let segments: Vec<String> = split
            .segments
            .iter()
            .map(|segment| format!("{}[{}]({})", segment.image, segment.flags.join(" "), segment.arguments.join(" ")))
            .collect();
        format!("{}|{}", split.flags.join(" "), segments.join("|"))
    }

    #[test]
    fn grammar() {
        for (line, expected) in [
            ("a", "|a[]()"),
            ("a b", "|a[]()|b[]()"),
            ("--name p a --name x", "--name=p|a[--name=x]()"),
            ("--name=p a --net=host", "--name=p --net=host|a[]()"),
            ("a --user 5 -- x --user y -- z", "|a[--user=5](x --user y -- z)"),
            ("a -- x --- b -- y ---", "|a[](x)|b[](y)"),
            ("a --- b", "|a[]()|b[]()"),
            ("a -- --- b -- y", "|a[]()|b[](y)"),
            ("a  b", "|a[]()|b[]()"),
            ("--interactive a", "--interactive|a[]()"),
            ("-i a -u5 -e A=b", "-i|a[-u=5 -e=A=b]()"),
            ("-iv /a:/b a", "-i -v=/a:/b|a[]()"),
            ("a --readonly-rootfs b", "|a[--readonly-rootfs]()|b[]()"),
            ("a --user=-1", "|a[--user=-1]()"),
            ("a --user -1", "|a[--user=-1]()"),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
        assert!(run("--net host --help").unwrap().help);
        assert!(!run("a -- --help").unwrap().help);
    }

    #[test]
    fn refusals() {
        for (line, message) in [
            ("-- x", "an image is required before any app arguments"),
            ("a -- x --- -- y", "only one set of app arguments is allowed for each image"),
            ("--user 5 a", "`--user` must follow an image"),
            ("-u 5 a", "`-u` must follow an image"),
            ("a --colour", "unknown flag `--colour`"),
            ("a --user", "`--user` needs a value"),
        ] {
            assert_eq!(run(line).unwrap_err().to_string(), message, "{line}");
        }
    }
}
