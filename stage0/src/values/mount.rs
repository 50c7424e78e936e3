//! `--mount`, `--tmpfs`, and the paths in them.

use super::{boolean, volume};
use contract::name::VolumeName;
use contract::pod::Tmpfs;
use std::path::{Path, PathBuf};

/// One mount of a volume, as the command line has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MountFlag {
    /// A volume that `--volume` declares.
    pub(crate) volume: VolumeName,
    /// Absolute path in the app.
    pub(crate) target: PathBuf,
    /// Absent: as the volume.
    pub(crate) read_only: Option<bool>,
}

/// `volume=NAME,target=PATH[,readOnly=BOOL]`; the target may be relative to the app's root.
pub(crate) fn parse(text: &str) -> Result<MountFlag, String> {
    let (mut name, mut target, mut read_only) = (None, None, None);
    for field in text.split(',') {
        let (key, value) = match field {
            "ro" | "readonly" => ("readOnly".to_owned(), "true".to_owned()),
            _ => super::key_value(field)?,
        };
        match key.as_str() {
            "volume" | "source" | "src" => {
                name = Some(VolumeName::parse(&value).map_err(|error| format!("volume: {error}"))?);
            }
            "target" | "destination" | "dst" => target = Some(super::path::normal(&Path::new("/").join(&value))?),
            "readOnly" => read_only = Some(boolean(&value)?),
            _ => return Err(format!("unknown field `{}`: a mount is volume=NAME,target=PATH", key.escape_debug())),
        }
    }
    match (name, target) {
        (Some(volume), Some(target)) => Ok(MountFlag { volume, target, read_only }),
        _ => Err(format!("`{}` is not of the form volume=NAME,target=PATH", text.escape_debug())),
    }
}

/// `PATH[:size=64M,mode=1777]`; without a size it takes 64 MiB, because an unlimited tmpfs is the host's memory.
pub(crate) fn tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = Tmpfs { target: super::path::absolute(path)?, size_bytes: 64 << 20, mode: 0o1777 };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => tmpfs.size_bytes = volume::tmpfs_size(size)?,
            Some(("mode", mode)) => tmpfs.mode = volume::octal_mode(mode)?,
            _ => return Err(format!("tmpfs option `{}` is neither size= nor mode=", option.escape_debug())),
        }
    }
    Ok(tmpfs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let mount = parse("volume=data,target=/srv//data/.").unwrap();
        assert_eq!(
            (mount.volume.as_str(), mount.target.as_path(), mount.read_only),
            ("data", Path::new("/srv/data"), None)
        );
        assert_eq!(parse("volume=d,target=dir1").unwrap().target, Path::new("/dir1"));
        assert_eq!(parse("volume=d,target=/x,readOnly=true").unwrap().read_only, Some(true));
        for bad in [
            "",
            "volume=d",
            "target=/x",
            "volume=d,target=/",
            "volume=d,target=/a/../b",
            "volume=D,target=/x",
            "volume=d,target=/x,a=b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfses() {
        assert_eq!(tmpfs("/tmp"), Ok(Tmpfs { target: "/tmp".into(), size_bytes: 64 << 20, mode: 0o1777 }));
        assert_eq!(
            tmpfs("/run:size=1M,mode=755"),
            Ok(Tmpfs { target: "/run".into(), size_bytes: 1 << 20, mode: 0o755 })
        );
        for bad in ["tmp", "/", "/tmp:size=0", "/tmp:exec", "/tmp:mode=9"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}
