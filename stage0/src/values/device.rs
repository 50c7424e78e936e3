//! `--device HOST[:PATH][:rwm]`. The numbers behind the host path are looked up when the pod is made.

use std::path::PathBuf;

/// A device of the host that an app gets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceFlag {
    /// On the host.
    pub(crate) source: PathBuf,
    /// In the app.
    pub(crate) path: PathBuf,
    /// May be read.
    pub(crate) read: bool,
    /// May be written.
    pub(crate) write: bool,
    /// May be made by mknod.
    pub(crate) mknod: bool,
}

/// Parses one.
pub(crate) fn parse(text: &str) -> Result<DeviceFlag, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let is_access = |part: &str| !part.is_empty() && part.bytes().all(|byte| b"rwm".contains(&byte));
    let (source, path, access) = match parts.as_slice() {
        [source] => (*source, *source, "rw"),
        [source, access] if is_access(access) => (*source, *source, *access),
        [source, path] => (*source, *path, "rw"),
        [source, path, access] if is_access(access) => (*source, *path, *access),
        _ => return Err(format!("`{}` is not of the form HOST[:PATH][:rwm]", text.escape_debug())),
    };
    Ok(DeviceFlag {
        source: super::path::absolute(source)?,
        path: super::path::absolute(path)?,
        read: access.contains('r'),
        write: access.contains('w'),
        mknod: access.contains('m'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let device = parse("/dev/fuse").unwrap();
        assert_eq!((device.path, device.read, device.write, device.mknod), ("/dev/fuse".into(), true, true, false));
        let device = parse("/dev/sda:/dev/disk:r").unwrap();
        assert_eq!((device.path, device.read, device.write), ("/dev/disk".into(), true, false));
        assert!(parse("/dev/kvm:rwm").unwrap().mknod);
        for bad in ["", "fuse", "/dev/a:b:c", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w", "/dev/../etc"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
