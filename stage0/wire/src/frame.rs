//! Frames of a guest's channel: a little-endian u32 length of what follows, a u8 kind, and the content.
//!
//! | kind | content |
//! |---|---|
//! | 0 | one message, JSON |
//! | 1 | u32 session, u8 stream, then bytes of that stream; none: its end |
//! | 2 | u32 session, u32 count: so many bytes of the session's streams were passed on |
//! | 3 | u32 session, u8 stream: its reader is gone |

use anyhow::{Context, Result, bail, ensure};
use contract::channel::{DATA_BYTES_MAX, MESSAGE_BYTES_MAX};

const MESSAGE: u8 = 0;
const DATA: u8 = 1;
const TAKEN: u8 = 2;
const CLOSED: u8 = 3;

/// Bytes of the length.
const HEADER_BYTES: usize = 4;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, as JSON.
    Message(Vec<u8>),
    /// Bytes of a stream; none: its end.
    Data {
        /// 0 is the apps'; the others are those of `exec`.
        session: u32,
        /// 0, 1 or 2: standard input, output, error.
        stream: u8,
        /// At most [`DATA_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// So many bytes that came by `Data` were passed on, or dropped.
    Taken {
        /// Which session.
        session: u32,
        /// Added to what was said before.
        bytes: u32,
    },
    /// Bytes of this stream are dropped from now on, because their reader is gone.
    Closed {
        /// Which session.
        session: u32,
        /// Which stream.
        stream: u8,
    },
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        match self {
            Self::Message(json) => {
                ensure!(json.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes is too long", json.len());
                out.push(MESSAGE);
                out.extend_from_slice(json);
            }
            Self::Data { session, stream, bytes } => {
                ensure!(bytes.len() <= DATA_BYTES_MAX, "{} bytes of a stream are too many at once", bytes.len());
                out.push(DATA);
                out.extend_from_slice(&session.to_le_bytes());
                out.push(*stream);
                out.extend_from_slice(bytes);
            }
            Self::Taken { session, bytes } => {
                out.push(TAKEN);
                out.extend_from_slice(&session.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
            }
            Self::Closed { session, stream } => {
                out.push(CLOSED);
                out.extend_from_slice(&session.to_le_bytes());
                out.push(*stream);
            }
        }
        let length = u32::try_from(out.len() - start - HEADER_BYTES).context("a frame is too long")?;
        out[start..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// The first frame of `bytes` and its length; none if it is not complete. A length beyond the limit is refused before its
    /// bytes have come.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        ensure!(length <= 1 + MESSAGE_BYTES_MAX, "a frame of {length} bytes is too long");
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let Some((kind, content)) = body.split_first() else { bail!("a frame without a kind") };
        Ok(Some((Self::of(*kind, content)?, HEADER_BYTES + length)))
    }

    fn of(kind: u8, content: &[u8]) -> Result<Self> {
        if kind == MESSAGE {
            return Ok(Self::Message(content.to_vec()));
        }
        let Some((session, rest)) = content.split_first_chunk() else { bail!("a frame of {kind} without a session") };
        let session = u32::from_le_bytes(*session);
        match (kind, rest) {
            (DATA, [stream @ 0..=2, bytes @ ..]) if bytes.len() <= DATA_BYTES_MAX => {
                Ok(Self::Data { session, stream: *stream, bytes: bytes.to_vec() })
            }
            (TAKEN, &[a, b, c, d]) => Ok(Self::Taken { session, bytes: u32::from_le_bytes([a, b, c, d]) }),
            (CLOSED, [stream @ 0..=2]) => Ok(Self::Closed { session, stream: *stream }),
            _ => bail!("a frame of kind {kind} with {} bytes is none of this channel", content.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        prop::collection::vec(
            prop_oneof![
                bytes().prop_map(Frame::Message),
                (any::<u32>(), 0..3_u8, bytes()).prop_map(|(session, stream, bytes)| Frame::Data {
                    session,
                    stream,
                    bytes
                }),
                (any::<u32>(), any::<u32>()).prop_map(|(session, bytes)| Frame::Taken { session, bytes }),
                (any::<u32>(), 0..3_u8).prop_map(|(session, stream)| Frame::Closed { session, stream }),
            ],
            0..8,
        )
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(sent in frames(), cut in 1_usize..50) {
            let mut bytes = Vec::new();
            sent.iter().for_each(|frame| frame.encode(&mut bytes).unwrap());
            let (mut inbox, mut received) = (Vec::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                inbox.extend_from_slice(piece);
                while let Some((frame, length)) = Frame::decode(&inbox).unwrap() {
                    inbox.drain(..length);
                    received.push(frame);
                }
            }
            prop_assert!(inbox.is_empty());
            prop_assert_eq!(received, sent);
        }
    }

    #[test]
    fn a_long_message_is_refused_before_it_is_read() {
        let length = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 2;
        assert!(Frame::decode(&length.to_le_bytes()).unwrap_err().to_string().contains(&length.to_string()));
        assert!(Frame::decode(&(length - 1).to_le_bytes()).unwrap().is_none());
    }

    #[test]
    fn bad_frames_are_refused() {
        for bytes in [
            &b"\0\0\0\0"[..],
            b"\x01\0\0\0\x07",
            b"\x03\0\0\0\x01\0\0",
            b"\x06\0\0\0\x01\0\0\0\0\x03",
            b"\x05\0\0\0\x03\0\0\0\0",
            b"\x07\0\0\0\x02\0\0\0\0\0\0",
        ] {
            assert!(Frame::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(Frame::decode(b"\x05\0\0\0\0{").unwrap().is_none());
        let long = vec![0; DATA_BYTES_MAX + 1];
        assert!(Frame::Data { session: 1, stream: 1, bytes: long }.encode(&mut Vec::new()).is_err());
        assert!(Frame::Message(vec![b' '; MESSAGE_BYTES_MAX + 1]).encode(&mut Vec::new()).is_err());
    }
}
