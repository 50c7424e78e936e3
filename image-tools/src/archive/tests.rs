//! Any bytes at all: an error or entries, never a panic.

use super::*;
use proptest::prelude::*;

fn walk(bytes: &[u8]) -> Result<usize, ArchiveError> {
    let mut archive = Archive::new(bytes);
    let mut count = 0;
    while archive.next_entry()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// A header with a right checksum and anything else.
fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block.resize(512, 0);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = walk(&bytes);
    }

    #[test]
    fn any_header(block in proptest::collection::vec(any::<u8>(), 512), rest in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = walk(&[sealed(block), rest].concat());
    }

    #[test]
    fn any_extension(kind in proptest::sample::select(b"xgLKS07".to_vec()), body in "[0-9 a-zA-Z.=,\n]{0,1024}") {
        let mut block = vec![0; 512];
        block[0] = b'x';
        block[156] = kind;
        block[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
        let mut body = body.into_bytes();
        body.resize(body.len().next_multiple_of(512), 0);
        let _ = walk(&[sealed(block.clone()), body, sealed(vec![b'n'])].concat());
    }
}

#[test]
fn links_and_directories_have_no_body() {
    for kind in *b"1235 46" {
        let mut block = vec![0; 512];
        block[0] = b'x';
        block[156] = kind;
        block[124..136].copy_from_slice(b"00000001000\0");
        assert!(walk(&[sealed(block), vec![0; 512]].concat()).is_err(), "{}", char::from(kind));
    }
}

#[test]
fn numbers() {
    for (field, value) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"\0\0\0\0", Some(0)),
        (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
        (b"12x\0", None),
        (b"-1\0", None),
        (b"+1\0", None),
        (b"9\0", None),
    ] {
        assert_eq!(header::number(field), value, "{}", field.escape_ascii());
    }
}
