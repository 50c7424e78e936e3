//! Words of `--insecure-options` that a command has no use for.

use super::Action;
use super::globals::Globals;
use super::image_commands::Image;
use super::tree::Command;
use super::trust_commands::Trust;
use crate::failure::Failure;
use crate::stage1::Meaning;
use crate::values::sets::{Insecure, InsecureWord};
use clap::ValueEnum;
use image_tools::reference::{Reference, Source};

/// Refuses words of `--insecure-options` that would do nothing for this command: somebody who gives up a protection must not
/// believe that it was in force until now.
pub(crate) fn refuse(globals: &Globals, action: &Action) -> Result<(), Failure> {
    let meant = match action {
        Action::Run(pod) | Action::Prepare(pod) => {
            let image = match Meaning::of(&pod.pod.stage1) {
                Meaning::Image(image) => Some(image),
                Meaning::BuiltIn(_) | Meaning::Path(_) => None,
            };
            let remote = pod.apps.iter().map(|app| app.image.as_str()).chain(image).any(is_remote);
            Insecure { tls: remote, http: remote, ..Insecure::default().add(InsecureWord::All) }
        }
        Action::Command(Command::Fetch(fetch)) => {
            let remote = fetch.images.iter().any(|image| is_remote(image));
            Insecure { image: true, tls: remote, http: remote, ..Insecure::default() }
        }
        Action::Command(Command::Image(Image::Push(_))) => Insecure { tls: true, http: true, ..Insecure::default() },
        // A key that is not given as a file is looked for on the web.
        Action::Command(Command::Trust(Trust::Add(add))) => {
            Insecure { tls: add.key.is_none(), http: add.key.is_none(), ..Insecure::default() }
        }
        Action::Command(Command::Config(_)) => return Ok(()),
        _ => Insecure::default(),
    };
    for word in &globals.insecure_options {
        let given = Insecure::default().add(*word);
        if given != Insecure::default() && !given.intersects(meant) {
            let shown = word.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            return Err(Failure::usage(format!("`--insecure-options={shown}` does nothing for this command"))
                .hint(format!("leave it out of `pod {}`", action.name())));
        }
    }
    Ok(())
}

/// Whether a server may be asked for it: also for what an `.aci` depends on. What is no reference is refused later.
fn is_remote(image: &str) -> bool {
    match Reference::parse(image) {
        Ok(Reference::Source(source)) => matches!(source, Source::Registry(_) | Source::Url(_) | Source::Aci(_)),
        Ok(Reference::Id(_)) => false,
        Ok(Reference::Name(_)) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use crate::arguments::parse;

    #[test]
    fn words_that_do_nothing_are_refused() {
        for (line, good) in [
            ("run --insecure-options=image,capabilities,paths,seccomp a.pod", true),
            ("run --insecure-options=all a.pod", true),
            ("run --insecure-options=none a.pod", true),
            ("run --insecure-options=http example.com/a", true),
            ("run --insecure-options=tls a.aci", true),
            ("run --insecure-options=tls a.pod --- docker://b", true),
            ("run --insecure-options=http a.pod", false),
            ("run --insecure-options=image,tls docker-archive:a.tar", false),
            ("run --stage1=example.com/stage1 --insecure-options=http a.pod", true),
            ("fetch --insecure-options=image,tls https://example.com/a.pod", true),
            ("fetch --insecure-options=seccomp a", false),
            ("fetch --insecure-options=all-fetch a.pod", true),
            ("fetch --insecure-options=all-run a", false),
            ("run-prepared --insecure-options=image x", false),
            ("list --insecure-options=all", false),
            ("exec --insecure-options=seccomp x", false),
            ("image push --insecure-options=http a docker://localhost/a", true),
            ("image push --insecure-options=image a docker://localhost/a", false),
            ("trust add --insecure-options=http --prefix example.com", true),
            ("trust add --insecure-options=http --prefix example.com a.pub", false),
            ("config --insecure-options=all", true),
        ] {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let parsed = parse(&argv).unwrap_or_else(|(_, failure)| panic!("{line}: {failure}"));
            assert_eq!(super::refuse(&parsed.globals, &parsed.action).is_ok(), good, "{line}");
        }
    }
}
