//! Messages: a header, the structure that the kind begins with, and attributes.
//!
//! What is read is the kernel's, so what is malformed is a bug and not an attack; still nothing here reads beyond a message.
//! Attributes that nobody asks for are skipped, so that a newer kernel may say more than this program knows.

use crate::uapi::{NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_REQUEST};

/// struct nlmsghdr.
pub(crate) const HEADER_BYTES: usize = 16;

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

/// One message of an answer.
pub(crate) struct Answer<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    /// That of the request that it answers.
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Message {
    /// A request of this kind that is acknowledged; `head` is the structure that the kind begins with.
    pub fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut message = Self(vec![0; HEADER_BYTES]);
        message.0[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.set_flags(NLM_F_REQUEST | NLM_F_ACK | flags);
        message.0.extend_from_slice(head);
        message.pad();
        message
    }

    /// As [`Self::new`], of a kind that the kernel does not acknowledge.
    pub fn without_answer(kind: u16, head: &[u8]) -> Self {
        let mut message = Self::new(kind, 0, head);
        message.set_flags(NLM_F_REQUEST);
        message
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes are names, numbers and addresses");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a text that ends with a zero byte, as most names do.
    #[must_use]
    pub fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds an attribute made of those that `inside` adds.
    #[must_use]
    pub fn with_nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self = inside(self.with(kind | NLA_F_NESTED, b""));
        let length = u16::try_from(self.0.len() - start).expect("attributes are names, numbers and addresses");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// The kernel answers this request with a word of its own.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.flags() & NLM_F_ACK != 0
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.0[6], self.0[7]])
    }

    pub(crate) fn set_flags(&mut self, flags: u16) {
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    /// The bytes of the request that has this sequence number.
    pub(crate) fn finished(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.0.clone();
        let length = u32::try_from(bytes.len()).expect("requests are short");
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// The messages of one datagram.
pub(crate) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let (kind, flags, sequence) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?, u32_at(bytes, 8)?);
        let body = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, flags, sequence, body })
    })
}

/// The attributes of a body after its first `head_bytes`: kind without flags, and value.
pub fn attributes(body: &[u8], head_bytes: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = body.get(head_bytes.next_multiple_of(4)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of the kernel's own byte order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A number of the kernel's own byte order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The value of the first attribute of this kind.
pub fn attribute(body: &[u8], head_bytes: usize, wanted: u16) -> Option<&[u8]> {
    attributes(body, head_bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The text of the first attribute of this kind, without its zero byte.
pub fn text(body: &[u8], head_bytes: usize, wanted: u16) -> Option<String> {
    let bytes = attribute(body, head_bytes, wanted)?;
    String::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::{IFLA_AF_SPEC, IFLA_IFNAME, NLM_F_CREATE, RTM_NEWLINK};
    use proptest::prelude::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let message = Message::new(RTM_NEWLINK, NLM_F_CREATE, &[1; 16]).with_text(IFLA_IFNAME, "lo");
        let bytes = message.with_nested(IFLA_AF_SPEC, |inner| inner.with(8, &[1])).finished(7);
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
        assert_eq!(u32_at(&bytes, 8), Some(7));
        let body = &bytes[HEADER_BYTES..];
        let found: Vec<(u16, &[u8])> = attributes(body, 16).collect();
        assert_eq!(found, [(IFLA_IFNAME, &b"lo\0"[..]), (IFLA_AF_SPEC, &[5, 0, 8, 0, 1, 0, 0, 0][..])]);
        assert_eq!(text(body, 16, IFLA_IFNAME).as_deref(), Some("lo"));
        assert_eq!(attribute(body, 16, 99), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for answer in answers(&bytes) {
                prop_assert!(attributes(answer.body, 16).count() < 200);
            }
        }
    }
}
