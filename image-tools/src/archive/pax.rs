//! Extension headers: PAX records, and the long names of GNU tar.

use super::sparse::{self, SEGMENTS_MAX};
use super::{ArchiveError, Segment, Time};

/// What extension headers said about the next entry, so far.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pax: Option<Pax>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// What PAX records said about the next entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
    raw_sparse: RawSparse,
}

/// A sparse file as PAX records describe it.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) real_size: u64,
    /// Absent: in the body (version 1.0).
    pub(super) map: Option<Vec<Segment>>,
}

#[derive(Debug, Default)]
struct RawSparse {
    seen: bool,
    major: u64,
    minor: u64,
    real_size: Option<u64>,
    name: Option<Vec<u8>>,
    segments: Vec<Segment>,
    offset: Option<u64>,
}

impl Extensions {
    pub(super) fn any(&self) -> bool {
        self.pax.is_some() || self.long_path.is_some() || self.long_link.is_some()
    }

    /// Takes the body of the extension header of type `kind`.
    pub(super) fn take(&mut self, kind: u8, text: &[u8]) -> Result<(), ArchiveError> {
        let twice = || ArchiveError::Malformed("two extension headers of one kind for one entry".into());
        match kind {
            b'x' => {
                let mut pax = Pax::default();
                for record in records(text) {
                    let (key, value) = record?;
                    pax.record(key, value)?;
                }
                self.pax.replace(pax).map_or(Ok(()), |_| Err(twice()))
            }
            // Records for all entries that follow: comments are common (`git archive`), anything that would change
            // entries is where readers disagree.
            b'g' => {
                for record in records(text) {
                    let (key, _) = record?;
                    if key != b"comment" {
                        let key = key.escape_ascii();
                        return Err(ArchiveError::Malformed(format!("a global extension header with `{key}`")));
                    }
                }
                Ok(())
            }
            b'L' => self.long_path.replace(without_nul(text)).map_or(Ok(()), |_| Err(twice())),
            _ => self.long_link.replace(without_nul(text)).map_or(Ok(()), |_| Err(twice())),
        }
    }

    pub(super) fn finish(self) -> Result<Pax, ArchiveError> {
        let mut pax = self.pax.unwrap_or_default();
        pax.path = pax.raw_sparse.name.take().or(pax.path).or(self.long_path);
        pax.link = pax.link.or(self.long_link);
        pax.sparse = std::mem::take(&mut pax.raw_sparse).finish()?;
        Ok(pax)
    }
}

fn without_nul(text: &[u8]) -> Vec<u8> {
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    text[..end].to_vec()
}

impl Pax {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        let bad = || ArchiveError::Malformed(format!("an impossible `{}` in an extension header", key.escape_ascii()));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value).ok_or_else(bad)?),
            b"uid" => self.uid = Some(decimal(value).and_then(|id| id.try_into().ok()).ok_or_else(bad)?),
            b"gid" => self.gid = Some(decimal(value).and_then(|id| id.try_into().ok()).ok_or_else(bad)?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(bad)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) || self.xattrs.iter().any(|(other, _)| other == name) {
                        return Err(bad());
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.raw_sparse.record(key, value).ok_or_else(bad)?;
                }
            }
        }
        Ok(())
    }
}

impl RawSparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.seen = true;
        match key {
            b"major" => self.major = decimal(value)?,
            b"minor" => self.minor = decimal(value)?,
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take()?;
                self.push(Segment { offset, length: decimal(value)? })?;
            }
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next() {
                    self.push(Segment { offset: decimal(offset)?, length: decimal(numbers.next()?)? })?;
                }
            }
            b"numblocks" => {}
            _ => return None,
        }
        Some(())
    }

    fn push(&mut self, segment: Segment) -> Option<()> {
        self.segments.push(segment);
        (self.segments.len() <= SEGMENTS_MAX).then_some(())
    }

    fn finish(self) -> Result<Option<Sparse>, ArchiveError> {
        if !self.seen {
            return Ok(None);
        }
        let real_size = self.real_size.ok_or_else(|| ArchiveError::Malformed("a sparse file without size".into()))?;
        match (self.major, self.minor) {
            (0, 0 | 1) => Ok(Some(Sparse { real_size, map: Some(self.segments) })),
            (1, 0) if self.segments.is_empty() => Ok(Some(Sparse { real_size, map: None })),
            _ => Err(ArchiveError::Malformed("a sparse file of an unknown form".into())),
        }
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts the whole record.
fn records(mut text: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), ArchiveError>> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let record = (|| {
            let blank = text.iter().take(8).position(|byte| *byte == b' ')?;
            let len = usize::try_from(decimal(&text[..blank])?).ok()?;
            let record = text.get(blank + 1..len)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            text = &text[len..];
            Some((&record[..equals], &record[equals + 1..]))
        })();
        if record.is_none() {
            text = &[];
        }
        Some(record.ok_or_else(|| ArchiveError::Malformed("a malformed extension header".into())))
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    sparse::decimal(digits)
}

/// `1234567890.123456789`, possibly negative; digits beyond nanoseconds are dropped.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = dot.map_or((text, &b""[..]), |dot| (&text[..dot], &text[dot + 1..]));
    let secs = i64::try_from(decimal(whole)?).ok()?;
    if fraction.len() > 32 || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => Time { secs, nanos },
        (true, 0) => Time { secs: -secs, nanos },
        (true, _) => Time { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}
