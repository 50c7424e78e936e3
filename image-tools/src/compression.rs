//! How layers are compressed, and reading them.

use std::io::{self, BufRead, Read};

/// Compression of a layer or archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain.
    None,
    /// RFC 1952, possibly of several members.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// Only in appc images.
    Xz,
}

/// Largest zstd window, as a power of two: what the format's command line tool decodes without a flag.
const WINDOW_LOG_MAX: u32 = 27;
/// Largest xz dictionary, in KiB: what `xz -9` makes, and a little.
const XZ_KIB_MAX: u32 = 80 << 10;

impl Compression {
    /// By the first bytes of the content. Media types and file names lie; magic numbers are what decoders go by.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }

    /// A reader of the plain content.
    pub fn decoder<'a>(self, reader: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(reader),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(reader)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_KIB_MAX)),
        })
    }
}
