//! appc images (`.aci`), which rkt ran: a tar, perhaps compressed, with `manifest` and `rootfs/`.
//!
//! An image may be put on top of others. Those are whole images of the store, so each brings its own dependencies with it,
//! and there is no recursion here that a cycle could make endless. Their layers come first, in the order of the manifest;
//! a whitelist of paths then holds for the layers below as it does for its own.

mod manifest;

use super::{APPC_ID, Content, Resolve, SourceError, SourceImage, SourceLayer, invalid, io};
use crate::archive::{Archive, ArchiveError, Entry, Kind};
use crate::compression::Compression;
use crate::extent::{Extent, unnamed_file};
use crate::limits::Limits;
use crate::unpack::normalize_path;
use manifest::Manifest;
use sha2::Digest as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

const ROOTFS: &[u8] = b"rootfs";

/// Most layers of a rendered image: what a stack of overlayfs takes, with room for what comes on top.
const LAYERS_MAX: usize = 400;

/// The layer is made anew from the entries below `rootfs`, in an unnamed file.
pub(super) fn open(file: &Extent, path: &Path, resolve: &mut Resolve<'_>) -> Result<SourceImage, SourceError> {
    let plain = file.decompressed(&Limits::default()).map_err(|source| io(path, source))?;
    let bad = |source| SourceError::Archive { path: path.display().to_string(), source };
    let manifest = find_manifest(&plain).map_err(bad)?.ok_or_else(|| invalid(path, "has no member `manifest`"))?;
    let manifest = Manifest::parse(&manifest)?;
    let mut layers = Vec::new();
    for dependency in manifest.dependencies()? {
        let shown = |source| SourceError::Dependency {
            path: path.display().to_string(),
            name: dependency.name.to_string(),
            source,
        };
        for layer in resolve(&dependency).map_err(shown)? {
            layers.push(if manifest.is_selective() { selected(&layer, &manifest).map_err(bad)? } else { layer });
        }
        if layers.len() > LAYERS_MAX {
            return Err(invalid(path, format!("is made of more than {LAYERS_MAX} layers")));
        }
    }
    layers.push(made(rewrite(&plain, &|path| below_rootfs(path), &manifest).map_err(bad)?).map_err(bad)?);
    let id = image_id(&plain).map_err(|source| io(path, source))?;
    let (name, mut description) = manifest.describe()?;
    description.annotations.insert(APPC_ID.to_owned(), id);
    Ok(SourceImage {
        names: vec![name],
        manifest: None,
        content: Content::Foreign(description),
        layers,
        signatures: Vec::new(),
    })
}

fn image_id(plain: &Extent) -> std::io::Result<String> {
    let mut reader = plain.reader_from(0);
    let mut hasher = sha2::Sha512::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    Ok(hasher.finalize().iter().fold("sha512-".to_owned(), |text, byte| text + &format!("{byte:02x}")))
}

/// What the whitelist leaves of a layer below.
fn selected(layer: &SourceLayer, manifest: &Manifest) -> Result<SourceLayer, ArchiveError> {
    let plain = layer.extent.decompressed(&Limits::default())?;
    let whole = |path: &[u8]| name(path).map(|path| Some(if path.is_empty() { b".".to_vec() } else { path }));
    made(rewrite(&plain, &whole, manifest)?)
}

fn made(file: File) -> Result<SourceLayer, ArchiveError> {
    let extent = Extent::whole(file)?;
    Ok(SourceLayer { extent, compression: Compression::None, digest: None, size: None, diff_id: None })
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

/// Which name of the new layer a member becomes; none if it is not in the root.
type Rename<'a> = dyn Fn(&[u8]) -> Result<Option<Vec<u8>>, ArchiveError> + 'a;

/// A new layer of the members that `rename` keeps and the whitelist allows.
fn rewrite(plain: &Extent, rename: &Rename<'_>, manifest: &Manifest) -> Result<File, ArchiveError> {
    let mut out = BufWriter::with_capacity(256 << 10, unnamed_file(&std::env::temp_dir())?);
    let mut archive = reader(plain);
    let mut entries = 0;
    while let Some(mut entry) = archive.next_entry()? {
        entries += 1;
        if entries > Limits::default().entries {
            return Err(ArchiveError::Limit(format!("more than {} members", Limits::default().entries)));
        }
        let Some(path) = rename(&entry.path)? else { continue };
        // A directory is always allowed, so that what is on the list has a place; and what deletes, so that it is deleted.
        let deletes = path.rsplit(|byte| *byte == b'/').next().is_some_and(|last| last.starts_with(b".wh."));
        if entry.kind != Kind::Directory && !deletes && !manifest.allows(&path) {
            continue;
        }
        if entry.kind == Kind::HardLink {
            let outside = || ArchiveError::Malformed("a hard link to something that is not in its root".into());
            entry.link = rename(&entry.link)?.ok_or_else(outside)?;
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
