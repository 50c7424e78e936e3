//! What a security module of the kernel confines an app by: what the user says, or what the host has for apps.

use super::Facts;
use crate::arguments::app_flags::AppFlags;
use crate::failure::Failure;
use crate::lsm::selinux::{Contexts, Selinux, categories, with_categories};
use crate::lsm::{self, Apparmor};
use crate::values::sets::{Insecure, LabelFlag};
use contract::features::Feature;
use contract::name::PodUuid;
use contract::pod::Label;

/// The label of an app.
pub(crate) fn resolve(
    flags: &AppFlags,
    insecure: Insecure,
    facts: &Facts,
    uuid: &PodUuid,
) -> Result<Option<Label>, Failure> {
    let (apparmor, selinux) = (apparmor(flags, insecure, facts)?, selinux(flags, insecure, facts, uuid)?);
    let asked = |flag: &Option<LabelFlag>| matches!(flag, Some(LabelFlag::Named(_)));
    match (asked(&flags.apparmor), asked(&flags.selinux)) {
        (true, true) => Err(Failure::usage("cannot use both `--apparmor` and `--selinux` for one image")),
        (false, true) => Ok(selinux),
        _ => Ok(apparmor.or(selinux)),
    }
}

/// Whether the app gets what the host has for apps, if its stage1 can give it. What it protects is, among others, the paths that
/// the user wants unprotected by that option.
fn by_default(insecure: Insecure, facts: &Facts, feature: Feature) -> bool {
    !insecure.paths && facts.stage1.contains(&feature)
}

/// The profile of the user, or the one that comes with pod, where it is loaded.
fn apparmor(flags: &AppFlags, insecure: Insecure, facts: &Facts) -> Result<Option<Label>, Failure> {
    let profile = match &flags.apparmor {
        Some(LabelFlag::Unconfined) => return Ok(None),
        Some(LabelFlag::Named(profile)) => profile.as_str(),
        None if !by_default(insecure, facts, Feature::Apparmor) => return Ok(None),
        None if facts.apparmor.mode(lsm::PROFILE).is_none() => return Ok(None),
        None => lsm::PROFILE,
    };
    let shown = profile.escape_debug();
    let (why, hint) = match (&facts.apparmor, facts.apparmor.mode(profile)) {
        (_, Some(_)) => return Ok(Some(Label::Apparmor { profile: profile.to_owned() })),
        (Apparmor::Off, _) => ("this kernel does not run AppArmor", "leave `--apparmor` out"),
        (Apparmor::Hidden(why), _) => (why.as_str(), "`mount -t securityfs securityfs /sys/kernel/security`"),
        (Apparmor::On(_), None) => {
            ("it is not loaded", "`aa-status` lists those that are; `apparmor_parser` loads one")
        }
    };
    Err(Failure::new(format!("AppArmor profile `{shown}`: {why}")).hint(hint))
}

/// The user's context as it is, or the policy's for containers with the pod's own categories. Files have the same level.
fn selinux(flags: &AppFlags, insecure: Insecure, facts: &Facts, uuid: &PodUuid) -> Result<Option<Label>, Failure> {
    let asked = match &flags.selinux {
        Some(LabelFlag::Unconfined) => return Ok(None),
        Some(LabelFlag::Named(context)) => Some(context),
        None if !by_default(insecure, facts, Feature::Selinux) => return Ok(None),
        None => None,
    };
    match (asked, &facts.selinux) {
        (None, Selinux::On(Contexts { process, file, .. })) => {
            let pair = categories(uuid);
            Ok(Some(Label::Selinux { process: with_categories(process, pair), files: with_categories(file, pair) }))
        }
        (Some(process), Selinux::On(Contexts { file, .. })) => {
            Ok(Some(Label::Selinux { process: process.clone(), files: with_level_of(file, process) }))
        }
        (None, _) => Ok(None),
        (Some(_), Selinux::Off) => {
            Err(Failure::new("`--selinux`: this kernel does not run SELinux").hint("leave `--selinux` out"))
        }
        (Some(_), Selinux::Unlabelled(why)) => Err(Failure::new(format!("`--selinux`: {why}"))
            .hint("install a policy that has labels for containers, or use `--selinux=unconfined`")),
    }
}

/// The file context with the low level of the process, so that the process may write such files.
fn with_level_of(file: &str, process: &str) -> String {
    match (file.splitn(4, ':').nth(3), process.splitn(4, ':').nth(3)) {
        (Some(of_file), Some(level)) => {
            let low = level.split('-').next().unwrap_or(level);
            format!("{}{low}", file.strip_suffix(of_file).unwrap_or(file))
        }
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn of(line: &str, insecure: Insecure, facts: &Facts) -> String {
        let matches = crate::arguments::tree::app_flags("run").get_matches_from(line.split_whitespace());
        let uuid = PodUuid::parse("00000400-2b3d-4a51-9ab0-3bb1b9c2b7aa").unwrap();
        match resolve(&AppFlags::from_arg_matches(&matches).unwrap(), insecure, facts, &uuid) {
            Ok(Some(Label::Apparmor { profile })) => profile,
            Ok(Some(Label::Selinux { process, files })) => format!("{process} {files}"),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn profiles() {
        let facts = |text: &str| Facts {
            apparmor: Apparmor::On(text.to_owned()),
            stage1: [Feature::Apparmor].into(),
            ..Facts::default()
        };
        let loaded = facts("pod-default (enforce)\nother (complain)\n");
        let guest = Facts { stage1: [].into(), ..facts("pod-default (enforce)\n") };
        let (usual, without) = (Insecure::default(), Insecure { paths: true, ..Insecure::default() });
        for (line, insecure, facts, expected) in [
            ("", usual, &loaded, "pod-default"),
            ("", without, &loaded, "none"),
            ("", usual, &guest, "none"),
            ("", usual, &facts(""), "none"),
            ("", usual, &Facts { stage1: [Feature::Apparmor].into(), ..Facts::default() }, "none"),
            ("--apparmor=unconfined", usual, &loaded, "none"),
            ("--apparmor=other", usual, &loaded, "other"),
            ("--apparmor=other", without, &loaded, "other"),
            ("--apparmor=o", usual, &loaded, "AppArmor profile `o`: it is not loaded"),
            ("--apparmor=pod-default", without, &facts(""), "AppArmor profile `pod-default`: it is not loaded"),
            ("--apparmor=o", without, &Facts::default(), "AppArmor profile `o`: this kernel does not run AppArmor"),
        ] {
            assert_eq!(of(line, insecure, facts), expected, "{line}");
        }
    }

    #[test]
    fn contexts() {
        let (process, file) = ("u:r:container_t:s0".to_owned(), "u:object_r:file_t:s0".to_owned());
        let on = Selinux::On(Contexts { process, file, enforcing: true });
        let host = Facts { selinux: on, stage1: [Feature::Selinux].into(), ..Facts::default() };
        let guest = Facts { stage1: [].into(), selinux: host.selinux.clone(), ..Facts::default() };
        let (usual, without) = (Insecure::default(), Insecure { paths: true, ..Insecure::default() });
        let own = "u:r:container_t:s0:c1,c2 u:object_r:file_t:s0:c1,c2";
        for (line, insecure, facts, expected) in [
            ("", usual, &host, own),
            ("", without, &host, "none"),
            ("", usual, &guest, "none"),
            ("", usual, &Facts::default(), "none"),
            ("--selinux=unconfined", usual, &host, "none"),
            ("--selinux=a:b:c:s0-s0:c3", usual, &host, "a:b:c:s0-s0:c3 u:object_r:file_t:s0"),
            ("--selinux=a:b:c:s0:c3,c4", without, &host, "a:b:c:s0:c3,c4 u:object_r:file_t:s0:c3,c4"),
            ("--selinux=a:b:c", usual, &host, "a:b:c u:object_r:file_t:s0"),
            ("--selinux=a:b:c", usual, &Facts::default(), "`--selinux`: this kernel does not run SELinux"),
            ("--apparmor=unconfined", usual, &host, own),
        ] {
            assert_eq!(of(line, insecure, facts), expected, "{line}");
        }
        let both = Facts { apparmor: Apparmor::On("x (enforce)\n".to_owned()), ..host };
        assert!(of("--apparmor=x --selinux=a:b:c", usual, &both).starts_with("cannot use both"));
        assert!(of("--apparmor=x", usual, &both).starts_with('x'));
    }
}
