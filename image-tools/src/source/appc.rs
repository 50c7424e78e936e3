//! appc images (`.aci`), which rkt ran: a tar, perhaps compressed, with `manifest` and `rootfs/`.

mod manifest;

use super::{Content, SourceError, SourceImage, SourceLayer, invalid, io};
use crate::archive::{Archive, ArchiveError, Entry, Kind};
use crate::compression::Compression;
use crate::extent::{Extent, unnamed_file};
use crate::limits::Limits;
use crate::unpack::normalize_path;
use manifest::Manifest;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

const ROOTFS: &[u8] = b"rootfs";

/// The layer is made anew from the entries below `rootfs`, in an unnamed file.
pub(super) fn open(file: &Extent, path: &Path) -> Result<SourceImage, SourceError> {
    let plain = file.decompressed(&Limits::default()).map_err(|source| io(path, source))?;
    let bad = |source| SourceError::Archive { path: path.display().to_string(), source };
    let manifest = find_manifest(&plain).map_err(bad)?.ok_or_else(|| invalid(path, "has no member `manifest`"))?;
    let manifest = Manifest::parse(&manifest)?;
    let layer = layer(&plain, &manifest).map_err(bad)?;
    let extent = Extent::whole(layer).map_err(|source| io(path, source))?;
    let (name, description) = manifest.describe()?;
    Ok(SourceImage {
        names: vec![name],
        manifest: None,
        content: Content::Foreign(description),
        layers: vec![SourceLayer { extent, compression: Compression::None, digest: None, size: None, diff_id: None }],
        signatures: Vec::new(),
    })
}

fn reader(plain: &Extent) -> Archive<BufReader<crate::extent::ExtentReader>> {
    Archive::new(BufReader::with_capacity(256 << 10, plain.reader_from(0)))
}

fn name(path: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let refuse = |why| ArchiveError::Malformed(format!("a member `{}` that {why}", path.escape_ascii()));
    normalize_path(path, &Limits::default()).map_err(refuse)
}

fn find_manifest(plain: &Extent) -> Result<Option<Vec<u8>>, ArchiveError> {
    let mut archive = reader(plain);
    let mut found = None;
    while let Some(entry) = archive.next_entry()? {
        if entry.kind == Kind::File && name(&entry.path)? == b"manifest" {
            let bytes = archive.body_bytes(crate::config::BYTES_MAX as u64)?;
            if found.replace(bytes).is_some() {
                return Err(ArchiveError::Malformed("two members named `manifest`".into()));
            }
        }
    }
    Ok(found)
}

/// What is left of a name below `rootfs`; `.` for the root itself.
fn below_rootfs(path: &[u8]) -> Result<Option<Vec<u8>>, ArchiveError> {
    let path = name(path)?;
    Ok(match path.strip_prefix(ROOTFS) {
        Some(b"") => Some(b".".to_vec()),
        Some(rest) => rest.strip_prefix(b"/").map(<[u8]>::to_vec),
        None => None,
    })
}

fn layer(plain: &Extent, manifest: &Manifest) -> Result<File, ArchiveError> {
    let mut out = BufWriter::with_capacity(256 << 10, unnamed_file(&std::env::temp_dir())?);
    let mut archive = reader(plain);
    let mut entries = 0;
    while let Some(mut entry) = archive.next_entry()? {
        entries += 1;
        if entries > Limits::default().entries {
            return Err(ArchiveError::Limit(format!("more than {} members", Limits::default().entries)));
        }
        let Some(path) = below_rootfs(&entry.path)? else { continue };
        // A directory is always allowed, so that what is on the list has a place.
        if entry.kind != Kind::Directory && !manifest.allows(&path) {
            continue;
        }
        if entry.kind == Kind::HardLink {
            let outside = || ArchiveError::Malformed("a hard link to something that is not in its root".into());
            entry.link = below_rootfs(&entry.link)?.ok_or_else(outside)?;
        }
        entry.path = path;
        write_header(&mut out, &entry, archive.body_len())?;
        let body = archive.body_len();
        archive.read_body(|piece| out.write_all(piece).map_err(ArchiveError::from))?;
        pad(&mut out, body)?;
    }
    archive.finish()?;
    out.write_all(&[0; 1024])?;
    out.into_inner().map_err(|error| ArchiveError::Io(error.into_error()))
}

fn pad(out: &mut impl Write, body: u64) -> std::io::Result<()> {
    let padding = body.wrapping_neg() % 512;
    out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)])
}

fn write_header(out: &mut impl Write, entry: &Entry, body: u64) -> std::io::Result<()> {
    let records = records(entry);
    if !records.is_empty() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        out.write_all(&records)?;
        pad(out, records.len() as u64)?;
    }
    let mut header = tar::Header::new_gnu();
    let kind = match entry.kind {
        Kind::File => tar::EntryType::Regular,
        Kind::HardLink => tar::EntryType::Link,
        Kind::Symlink => tar::EntryType::Symlink,
        Kind::Character => tar::EntryType::Char,
        Kind::Block => tar::EntryType::Block,
        Kind::Directory => tar::EntryType::Directory,
        Kind::Fifo => tar::EntryType::Fifo,
    };
    header.set_entry_type(kind);
    let old = header.as_old_mut();
    let (path, link) = (entry.path.len().min(100), entry.link.len().min(100));
    old.name[..path].copy_from_slice(&entry.path[..path]);
    old.linkname[..link].copy_from_slice(&entry.link[..link]);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(u64::try_from(entry.mtime.secs).unwrap_or(0));
    header.set_size(body);
    header.set_device_major(entry.device.0)?;
    header.set_device_minor(entry.device.1)?;
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// What does not fit into a header, as PAX records.
fn records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| {
        let rest = key.len() + value.len() + 3;
        let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap_or(20);
        records.extend_from_slice((rest + digits).to_string().as_bytes());
        records.extend([b" ", key, b"=", value, b"\n"].concat());
    };
    if entry.path.len() > 100 {
        add(b"path", &entry.path);
    }
    if entry.link.len() > 100 {
        add(b"linkpath", &entry.link);
    }
    if entry.mtime.nanos != 0 && entry.mtime.secs >= 0 {
        add(b"mtime", format!("{}.{:09}", entry.mtime.secs, entry.mtime.nanos).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    if let Some(segments) = &entry.sparse {
        let map: Vec<_> = segments.iter().map(|segment| format!("{},{}", segment.offset, segment.length)).collect();
        add(b"GNU.sparse.major", b"0");
        add(b"GNU.sparse.minor", b"1");
        add(b"GNU.sparse.size", entry.size.to_string().as_bytes());
        if !map.is_empty() {
            add(b"GNU.sparse.map", map.join(",").as_bytes());
        }
    }
    records
}
