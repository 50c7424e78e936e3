//! What no image may exceed.

/// Limits on one layer. The defaults fit every sensible image; whoever has a larger one can say so.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the uncompressed layer, and of the files it makes, holes included.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed byte, looked at after the first [`Limits::RATIO_FREE_BYTES`].
    pub ratio: u64,
    /// Entries.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of a path.
    pub path_bytes: usize,
    /// Bytes of all extended attributes of an entry.
    pub xattr_bytes: usize,
}

impl Limits {
    /// Small layers may compress as well as they like.
    pub const RATIO_FREE_BYTES: u64 = 256 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        // Most layers of real images compress 2 to 4 times, sparse ones 100 times; gzip's maximum is 1032.
        Self { bytes: 64 << 30, ratio: 200, entries: 1_000_000, depth: 256, path_bytes: 4095, xattr_bytes: 128 << 10 }
    }
}
