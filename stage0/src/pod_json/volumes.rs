//! Volumes and mounts: what the flags declare, what images expect, and which meets which.

use crate::arguments::app_flags::AppFlags;
use crate::arguments::pod_flags::PodFlags;
use crate::failure::Failure;
use crate::values::volume::{ShortTarget, VolumeFlag};
use contract::name::{AppName, VolumeName};
use contract::pod::{Mount, Volume, VolumeSource};
use image_tools::config::MountPoint;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// An empty volume that nobody described further.
const EMPTY: VolumeSource = VolumeSource::Empty { mode: 0o755, uid: 0, gid: 0 };

/// The volumes of a pod while it is being put together.
#[derive(Debug)]
pub(crate) struct Volumes {
    list: Vec<Volume>,
    /// Mounts of all apps: `--mount` and short `--volume` before the first image.
    everywhere: Vec<Mount>,
    /// What the user named for all apps. Only that, and what is named for the app itself, meets a mount point of an image: by
    /// guessing a name, an image would else get what was given to another app.
    offered: Vec<VolumeName>,
    sources: HashMap<PathBuf, PathBuf>,
}

impl Volumes {
    /// What the pod's flags say.
    pub(crate) fn declare(flags: &PodFlags, sources: &HashMap<PathBuf, PathBuf>) -> Result<Self, Failure> {
        let mut volumes =
            Self { list: Vec::new(), everywhere: Vec::new(), offered: names(&flags.volume), sources: sources.clone() };
        // Declarations first, so that `NAME:/TARGET` finds its volume wherever it stands.
        for flag in flags.volume.iter().filter(|flag| flag.target.is_none()) {
            volumes.declare_long(flag)?;
        }
        for flag in &flags.volume {
            if let Some(target) = &flag.target {
                let mount = volumes.short(flag, target)?;
                volumes.everywhere.push(mount);
            }
        }
        for flag in &flags.mount {
            let mount = volumes.mount(&flag.volume, &flag.target, flag.read_only)?;
            volumes.everywhere.push(mount);
        }
        Ok(volumes)
    }

    /// All volumes, in the order in which they were met.
    pub(crate) fn into_list(self) -> Vec<Volume> {
        self.list
    }

    /// The mounts of one app, parents before children.
    pub(crate) fn of_app(
        &mut self,
        app: &AppName,
        flags: &AppFlags,
        points: &[MountPoint],
    ) -> Result<Vec<Mount>, Failure> {
        let mut mounts: Vec<Mount> = Vec::new();
        for flag in &flags.volume {
            match &flag.target {
                Some(target) => mounts.push(self.short(flag, target)?),
                None => self.declare_long(flag)?,
            }
        }
        for flag in &flags.mount {
            mounts.push(self.mount(&flag.volume, &flag.target, flag.read_only)?);
        }
        unique(app, &mounts)?;
        // What is said about the app wins over what is said about all apps, for the same place.
        let mut general: Vec<Mount> = Vec::new();
        for mount in self.everywhere.iter().filter(|mount| !has_target(&mounts, &mount.target)) {
            general.push(mount.clone());
        }
        unique(app, &general)?;
        mounts.extend(general);
        let own = names(&flags.volume);
        for point in points {
            self.meet(app, point, &own, &mut mounts)?;
        }
        mounts.iter().try_for_each(|mount| refuse_kernel_paths(app, &mount.target))?;
        mounts.sort_by(|a, b| {
            a.target.components().count().cmp(&b.target.components().count()).then(a.target.cmp(&b.target))
        });
        Ok(mounts)
    }

    fn declare_long(&mut self, flag: &VolumeFlag) -> Result<(), Failure> {
        let (Some(name), Some(source)) = (&flag.name, &flag.source) else {
            return Ok(());
        };
        if self.find(name).is_some() {
            return Err(Failure::usage(format!("duplicate volume name `{name}`")));
        }
        let source = self.resolved(source);
        self.list.push(Volume { name: name.clone(), source });
        Ok(())
    }

    /// `/HOST:/TARGET` or `NAME:/TARGET`.
    fn short(&mut self, flag: &VolumeFlag, target: &ShortTarget) -> Result<Mount, Failure> {
        let name = match (&flag.name, &flag.source) {
            (Some(name), _) => {
                if self.find(name).is_none() {
                    self.list.push(Volume { name: name.clone(), source: EMPTY });
                }
                name.clone()
            }
            (None, source) => {
                let source = self.resolved(source.as_ref().unwrap_or(&EMPTY));
                // The same source twice is one volume with two mounts.
                match self.list.iter().find(|volume| volume.source == source) {
                    Some(volume) => volume.name.clone(),
                    None => self.add("volume", source)?,
                }
            }
        };
        let populate = matches!(self.find(&name), Some(VolumeSource::Empty { .. }));
        Ok(Mount { volume: name, target: target.path.clone(), read_only: target.read_only, populate })
    }

    fn mount(&self, name: &VolumeName, target: &Path, read_only: Option<bool>) -> Result<Mount, Failure> {
        let source = self.find(name).ok_or_else(|| {
            Failure::usage(format!(
                "mount at `{}`: no volume is named `{name}`",
                target.display().to_string().escape_debug()
            ))
            .hint(format!("declare it: `--volume {name},kind=host,source=PATH` or `--volume {name},kind=empty`"))
        })?;
        let of_volume = matches!(source, VolumeSource::Host { read_only: true, .. });
        Ok(Mount {
            volume: name.clone(),
            target: target.to_owned(),
            read_only: of_volume || read_only.unwrap_or(false),
            populate: false,
        })
    }

    /// A mount point of the image: met by a mount at its path, else by the volume of its name, else by an empty volume of
    /// its own that goes with the pod.
    fn meet(
        &mut self,
        app: &AppName,
        point: &MountPoint,
        own: &[VolumeName],
        mounts: &mut Vec<Mount>,
    ) -> Result<(), Failure> {
        let of_image =
            |error: String| Failure::new(format!("mount point `{}` of the image: {error}", point.name.escape_debug()));
        let target = crate::values::path::absolute(&point.path).map_err(of_image)?;
        if has_target(mounts, &target) {
            return Ok(());
        }
        let name = VolumeName::parse(&point.name).map_err(|error| of_image(error.to_string()))?;
        let offered = self.offered.contains(&name) || own.contains(&name);
        let (volume, source) = match self.find(&name).filter(|_| offered) {
            Some(source) => (name, source.clone()),
            None => (self.add(&format!("{app}-{name}"), EMPTY)?, EMPTY),
        };
        let read_only = match source {
            // The user's word about the volume wins over the image's.
            VolumeSource::Host { read_only, .. } => read_only || point.read_only,
            VolumeSource::Empty { .. } => point.read_only,
        };
        let populate = matches!(source, VolumeSource::Empty { .. }) && point.populate;
        mounts.push(Mount { volume, target, read_only, populate });
        Ok(())
    }

    /// Adds a volume under `wanted`, or `wanted-2` …, cut to a DNS label.
    fn add(&mut self, wanted: &str, source: VolumeSource) -> Result<VolumeName, Failure> {
        for number in 1..=self.list.len() + 1 {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let stem: String = wanted.chars().take(contract::name::NAME_BYTES_MAX - suffix.len()).collect();
            let text = format!("{}{suffix}", stem.trim_end_matches('-'));
            let name = VolumeName::parse(&text).map_err(|error| Failure::new(format!("name a volume: {error}")))?;
            if self.find(&name).is_none() {
                self.list.push(Volume { name: name.clone(), source });
                return Ok(name);
            }
        }
        Err(Failure::new("too many volumes"))
    }

    fn find(&self, name: &VolumeName) -> Option<&VolumeSource> {
        self.list.iter().find(|volume| volume.name == *name).map(|volume| &volume.source)
    }

    fn resolved(&self, source: &VolumeSource) -> VolumeSource {
        match source {
            VolumeSource::Host { source, read_only, recursive } => VolumeSource::Host {
                source: self.sources.get(source).unwrap_or(source).clone(),
                read_only: *read_only,
                recursive: *recursive,
            },
            empty @ VolumeSource::Empty { .. } => empty.clone(),
        }
    }
}

fn names(flags: &[VolumeFlag]) -> Vec<VolumeName> {
    flags.iter().filter_map(|flag| flag.name.clone()).collect()
}

fn has_target(mounts: &[Mount], target: &Path) -> bool {
    mounts.iter().any(|mount| mount.target == target)
}

fn unique(app: &AppName, mounts: &[Mount]) -> Result<(), Failure> {
    for (index, mount) in mounts.iter().enumerate() {
        if has_target(&mounts[..index], &mount.target) {
            let target = mount.target.display().to_string();
            return Err(Failure::usage(format!(
                "two volumes are mounted at `{}` in app `{app}`",
                target.escape_debug()
            )));
        }
    }
    Ok(())
}

/// A volume over `/proc` would make what writes to `/proc` write to the volume (CVE-2025-52881 and its forerunners).
pub(crate) fn refuse_kernel_paths(app: &AppName, target: &Path) -> Result<(), Failure> {
    if target.starts_with("/proc") || target == Path::new("/sys") || target == Path::new("/dev") {
        let target = target.display().to_string();
        return Err(Failure::new(format!("app `{app}`: nothing may be mounted at `{}`", target.escape_debug())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn pod_flags(line: &str) -> PodFlags {
        let command = PodFlags::augment_args(clap::Command::new("run").no_binary_name(true).disable_help_flag(true));
        PodFlags::from_arg_matches(&command.get_matches_from(line.split_whitespace())).unwrap()
    }

    fn shown(pod: &str, app: &str, points: &[(&str, &str)]) -> Result<String, String> {
        let matches = crate::arguments::tree::app_flags("run").get_matches_from(app.split_whitespace());
        let flags = AppFlags::from_arg_matches(&matches).unwrap();
        let points: Vec<MountPoint> = points
            .iter()
            .map(|(name, path)| MountPoint {
                name: (*name).to_owned(),
                path: (*path).to_owned(),
                read_only: false,
                populate: true,
            })
            .collect();
        let of = |error: Failure| error.to_string();
        let mut volumes = Volumes::declare(&pod_flags(pod), &HashMap::new()).map_err(of)?;
        let mounts = volumes.of_app(&AppName::parse("app").unwrap(), &flags, &points).map_err(of)?;
        let mounts: Vec<String> = mounts
            .iter()
            .map(|mount| {
                let marks = format!(
                    "{}{}",
                    if mount.read_only { " ro" } else { "" },
                    if mount.populate { " fill" } else { "" }
                );
                format!("{}@{}{marks}", mount.volume, mount.target.display())
            })
            .collect();
        Ok(mounts.join(", "))
    }

    #[test]
    fn mounts_meet_volumes() {
        for (pod, app, points, expected) in [
            ("--volume d,kind=empty --mount volume=d,target=/x", "", &[][..], "d@/x"),
            ("--volume d,kind=host,source=/s,readOnly=true", "--mount volume=d,target=/x", &[], "d@/x ro"),
            ("-v /s:/x:ro", "", &[], "volume@/x ro"),
            ("", "-v /s:/x -v /t:/y", &[], "volume@/x, volume-2@/y"),
            ("", "-v cache:/x", &[], "cache@/x fill"),
            ("", "", &[("data", "/data")], "app-data@/data fill"),
            ("--volume data,kind=host,source=/s", "", &[("data", "/data")], "data@/data"),
            ("-v /s:/data", "", &[("data", "/data")], "volume@/data"),
            (
                "--volume a,kind=empty --volume b,kind=empty --mount volume=a,target=/x",
                "--mount volume=b,target=/x",
                &[],
                "b@/x",
            ),
            ("-v /a:/x/y -v /b:/x", "", &[], "volume-2@/x, volume@/x/y"),
        ] {
            assert_eq!(shown(pod, app, points).as_deref(), Ok(expected), "{pod} | {app}");
        }
    }

    #[test]
    fn an_image_gets_no_volume_of_another_app() {
        let app = |line: &str| {
            let matches = crate::arguments::tree::app_flags("run").get_matches_from(line.split_whitespace());
            AppFlags::from_arg_matches(&matches).unwrap()
        };
        for (pod, first, point, expected) in [
            ("", "-v /secret:/x", "volume", "b-volume"),
            ("", "--volume data,kind=host,source=/secret --mount volume=data,target=/x", "data", "b-data"),
            ("", "-v cache:/x", "cache", "b-cache"),
            ("-v /secret:/x", "", "volume", "b-volume"),
            ("--volume data,kind=host,source=/shared", "", "data", "data"),
        ] {
            let mut volumes = Volumes::declare(&pod_flags(pod), &HashMap::new()).unwrap();
            let mut of = |name: &str, flags: &str, points: &[MountPoint]| {
                volumes.of_app(&AppName::parse(name).unwrap(), &app(flags), points).unwrap()
            };
            of("a", first, &[]);
            let point =
                MountPoint { name: point.to_owned(), path: "/seen".to_owned(), read_only: false, populate: false };
            let mounts = of("b", "", &[point]);
            let seen = mounts.iter().find(|mount| mount.target == Path::new("/seen")).unwrap();
            assert_eq!(seen.volume.as_str(), expected, "{pod} | {first}");
        }
    }

    #[test]
    fn refusals() {
        for (pod, app, points) in [
            ("--mount volume=d,target=/x", "", &[][..]),
            ("--volume d,kind=empty --volume d,kind=empty", "", &[]),
            ("-v /a:/x -v /b:/x", "", &[]),
            ("", "-v /a:/proc/sys", &[]),
            ("", "-v /a:/dev", &[]),
            ("", "", &[("Data", "/data")]),
            ("", "", &[("data", "data")]),
            ("", "", &[("data", "/a/../b")]),
        ] {
            assert!(shown(pod, app, points).is_err(), "{pod} | {app}");
        }
    }
}
