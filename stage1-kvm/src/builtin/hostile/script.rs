//! The bytes of a script, read as what a guest needs; past the end all is zero.

/// What is left of it.
pub(super) struct Script<'a>(pub(super) &'a [u8]);

impl<'a> Script<'a> {
    /// At most `limit` bytes; their number comes first.
    pub(super) fn bytes(&mut self, limit: usize) -> &'a [u8] {
        let count = usize::from(self.u8()) % limit;
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let count = N.min(self.0.len());
        array[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        array
    }

    /// One of these.
    pub(super) fn pick(&mut self, from: &[u64]) -> u64 {
        from[usize::from(self.u8()) % from.len()]
    }

    /// Mostly small.
    pub(super) fn value(&mut self) -> u32 {
        match self.u8() {
            0xff => u32::MAX,
            0xc0..0xff => u32::from_le_bytes(self.array()),
            0x80..0xc0 => u32::from(self.u16()),
            small => u32::from(small & 0x1f),
        }
    }

    /// The length of a buffer: zero, some, more than there is memory, or all that 32 bits say.
    pub(super) fn length(&mut self) -> u32 {
        match self.u8() {
            0xff => u32::MAX,
            0xf0..0xff => u32::from_le_bytes(self.array()),
            0xc0..0xf0 => 0x1000,
            small => u32::from(small),
        }
    }

    /// Anywhere in memory, at its end, or where an end wraps around.
    pub(super) fn address(&mut self) -> u64 {
        match self.u8() {
            0xff => u64::MAX - u64::from(self.u8()),
            0xf0..0xff => self.u64(),
            0xe0..0xf0 => super::BYTES - u64::from(self.u8()),
            _ => u64::from(self.u16()),
        }
    }
}
