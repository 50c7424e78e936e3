//! `--volume`: rkt's form `NAME,kind=host|empty,…`, and the form that today's users type, `/host:/target[:ro]` or
//! `NAME:/target`.

use super::{boolean, number};
use contract::name::VolumeName;
use contract::pod::VolumeSource;
use std::path::PathBuf;

/// A volume of the pod as the command line has it; host paths are not resolved yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VolumeFlag {
    /// Given, or absent in the short form: then named after its target.
    pub(crate) name: Option<VolumeName>,
    /// Where its content is; absent in `NAME:/target` when the volume is declared elsewhere or is empty.
    pub(crate) source: Option<VolumeSource>,
    /// `Some`: also mounted there, in all apps or in the one it follows.
    pub(crate) target: Option<ShortTarget>,
}

/// The right side of the short form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShortTarget {
    /// Absolute path in the app.
    pub(crate) path: PathBuf,
    /// `:ro`
    pub(crate) read_only: bool,
}

/// Parses either form.
pub(crate) fn parse(text: &str) -> Result<VolumeFlag, String> {
    if text.contains("kind=") { long(text) } else { short(text) }
}

fn long(text: &str) -> Result<VolumeFlag, String> {
    let mut fields = text.split(',');
    let name = fields.next().unwrap_or_default();
    let name = VolumeName::parse(name).map_err(|error| format!("volume name: {error}"))?;
    let mut kind = None;
    let mut source = None;
    let (mut read_only, mut recursive, mut mode, mut uid, mut gid) = (None, None, None, None, None);
    for field in fields {
        let (key, value) = super::key_value(field)?;
        let twice = match key.as_str() {
            "kind" => kind.replace(value).is_some(),
            "source" => source.replace(super::path::absolute(&value)?).is_some(),
            "readOnly" | "ro" => read_only.replace(boolean(&value)?).is_some(),
            "recursive" => recursive.replace(boolean(&value)?).is_some(),
            "mode" => mode.replace(octal_mode(&value)?).is_some(),
            "uid" => uid.replace(super::user::gid(&value)?).is_some(),
            "gid" => gid.replace(super::user::gid(&value)?).is_some(),
            _ => return Err(format!("volume `{name}`: unknown field `{}`", key.escape_debug())),
        };
        if twice {
            return Err(format!("volume `{name}`: `{}` is given twice", key.escape_debug()));
        }
    }
    let source = match kind.as_deref() {
        Some("host") if mode.is_some() || uid.is_some() || gid.is_some() => {
            return Err(format!("volume `{name}`: mode, uid and gid belong to kind=empty"));
        }
        Some("host") => VolumeSource::Host {
            source: source.ok_or_else(|| format!("volume `{name}`: kind=host needs source=PATH"))?,
            read_only: read_only.unwrap_or(false),
            recursive: recursive.unwrap_or(true),
        },
        Some("empty") if source.is_some() || read_only.is_some() || recursive.is_some() => {
            return Err(format!("volume `{name}`: source, readOnly and recursive belong to kind=host"));
        }
        Some("empty") => {
            VolumeSource::Empty { mode: mode.unwrap_or(0o755), uid: uid.unwrap_or(0), gid: gid.unwrap_or(0) }
        }
        Some(other) => {
            return Err(format!("volume `{name}`: kind `{}` is neither host nor empty", other.escape_debug()));
        }
        None => return Err(format!("volume `{name}`: kind= is missing")),
    };
    Ok(VolumeFlag { name: Some(name), source: Some(source), target: None })
}

fn short(text: &str) -> Result<VolumeFlag, String> {
    let bad = || {
        let text = text.escape_debug();
        format!("`{text}` is neither `NAME,kind=host,source=PATH`, `NAME,kind=empty` nor `/HOST:/TARGET[:ro]`")
    };
    let mut parts = text.split(':');
    let (from, target) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(bad)?);
    let options = parts.next().unwrap_or("rw");
    if parts.next().is_some() {
        return Err(bad());
    }
    let (mut read_only, mut recursive) = (false, true);
    for option in options.split(',') {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "rbind" => recursive = true,
            "bind" => recursive = false,
            _ => return Err(format!("volume option `{}` is not one of ro, rw, bind, rbind", option.escape_debug())),
        }
    }
    let target = ShortTarget { path: super::path::absolute(target)?, read_only };
    if from.starts_with('/') {
        let source = VolumeSource::Host { source: super::path::absolute(from)?, read_only, recursive };
        return Ok(VolumeFlag { name: None, source: Some(source), target: Some(target) });
    }
    let name = VolumeName::parse(from).map_err(|_| bad())?;
    Ok(VolumeFlag { name: Some(name), source: None, target: Some(target) })
}

/// Permission bits in octal.
pub(crate) fn octal_mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    digits
        .then(|| u32::from_str_radix(text, 8).ok())
        .flatten()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("`{}` is not a mode such as `0755`", text.escape_debug()))
}

/// A size for `kind=empty` volumes is not offered: they lie on the host's disk, where nothing could enforce it.
pub(crate) fn tmpfs_size(text: &str) -> Result<u64, String> {
    number::size(text)
        .and_then(|bytes| if bytes == 0 { Err("a tmpfs of no size holds nothing".to_owned()) } else { Ok(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_form() {
        let host = parse("data,kind=host,source=/srv/data,readOnly=true").unwrap();
        assert_eq!(
            host.source,
            Some(VolumeSource::Host { source: "/srv/data".into(), read_only: true, recursive: true })
        );
        let empty = parse("tmp,kind=empty,mode=1777,uid=5").unwrap();
        assert_eq!(empty.source, Some(VolumeSource::Empty { mode: 0o1777, uid: 5, gid: 0 }));
        for bad in [
            "data,kind=host",
            "data,kind=host,source=srv",
            "data,kind=disk",
            "Data,kind=empty",
            "../x,kind=empty",
            "data,kind=empty,source=/srv",
            "data,kind=host,source=/s,mode=0755",
            "data,kind=empty,mode=999",
            "data,kind=empty,kind=empty",
            "data,kind=empty,colour=red",
            ",kind=empty",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_form() {
        let volume = parse("/srv:/data:ro").unwrap();
        assert_eq!(volume.target, Some(ShortTarget { path: "/data".into(), read_only: true }));
        assert!(volume.name.is_none());
        let named = parse("cache:/var/cache").unwrap();
        assert_eq!((named.name.map(String::from), named.source), (Some("cache".to_owned()), None));
        for bad in ["", "/srv", "/srv:data", "srv/x:/data", "/srv:/data:rx", "/srv:/data:ro:rw", ":/data", "/a:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
