//! Frames of the guest's channel: a little-endian u32 length, then so many bytes of one JSON message.

use anyhow::{Context, Result, ensure};
use contract::channel::MESSAGE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Appends `message` as a frame to `out`.
pub(crate) fn encode(message: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *out, message).context("write a message")?;
    let length = out.len() - start - 4;
    ensure!(length <= MESSAGE_BYTES_MAX, "a message of {length} bytes is too long for the channel");
    let length = u32::try_from(length).expect("MESSAGE_BYTES_MAX fits 32 bits");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Takes the first complete frame off `bytes`, or leaves them alone.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &mut Vec<u8>) -> Result<Option<T>> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    ensure!(length <= MESSAGE_BYTES_MAX, "a frame of {length} bytes is too long");
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = serde_json::from_slice(body).context("parse a message of the channel")?;
    bytes.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::channel::{Command, Event};

    #[test]
    fn frames_survive_any_split() {
        let events = [Event::Booted, Event::Failed { message: "x".repeat(300) }, Event::PodEnded { exit: 3 }];
        let mut bytes = Vec::new();
        for event in &events {
            encode(event, &mut bytes).unwrap();
        }
        for chunk in [1, 2, 3, 5, 7, 1000] {
            let mut inbox = Vec::new();
            let mut seen = Vec::new();
            for part in bytes.chunks(chunk) {
                inbox.extend_from_slice(part);
                while let Some(event) = decode::<Event>(&mut inbox).unwrap() {
                    seen.push(event);
                }
            }
            assert_eq!(seen, events);
            assert!(inbox.is_empty());
        }
    }

    #[test]
    fn bad_frames_are_refused() {
        for bytes in [&b"\xff\xff\xff\xff{}"[..], b"\x02\0\0\0{}", b"\x03\0\0\0abc", b"\x01\0\x04\0x"] {
            assert!(decode::<Command>(&mut bytes.to_vec()).is_err(), "{bytes:?}");
        }
        assert_eq!(decode::<Command>(&mut b"\x05\0\0\0{".to_vec()).unwrap(), None);
    }
}
