//! Content that tells by itself whether it is whole: a header with writer, sequence number and length, then bytes that
//! follow from them.

use std::fmt;

const HEADER_LENGTH: usize = 32;
const MAGIC: u64 = 0x6466_735f_7061_796c;

/// Who wrote what; two payloads of one test never have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Payload {
    pub writer: u64,
    pub sequence: u64,
    /// In bytes, header included.
    pub length: usize,
}

/// Why some bytes are not a whole payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Torn(String);

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Payload {
    /// `length` is raised to what the header needs.
    pub fn new(writer: u64, sequence: u64, length: usize) -> Self {
        Self { writer, sequence, length: length.max(HEADER_LENGTH) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length + 8);
        for word in [MAGIC, self.writer, self.sequence, self.length as u64] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let mut state = self.writer.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.sequence;
        while bytes.len() < self.length {
            bytes.extend_from_slice(&splitmix(&mut state).to_le_bytes());
        }
        bytes.truncate(self.length);
        bytes
    }

    /// The payload that these bytes are, whole and nothing else.
    pub fn parse(bytes: &[u8]) -> Result<Self, Torn> {
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .take(HEADER_LENGTH / 8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("chunks of 8")))
            .collect();
        let &[magic, writer, sequence, length] = words.as_slice() else {
            return Err(Torn(format!("{} bytes are too few for a header", bytes.len())));
        };
        if magic != MAGIC {
            return Err(Torn(format!("the header begins with {magic:#x}")));
        }
        let payload = Self { writer, sequence, length: length as usize };
        if bytes.len() != payload.length {
            return Err(Torn(format!("{payload:?} has {} bytes", bytes.len())));
        }
        match bytes.iter().zip(payload.bytes()).position(|(have, want)| *have != want) {
            Some(at) => Err(Torn(format!("{payload:?} differs from byte {at} on"))),
            None => Ok(payload),
        }
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn a_torn_payload_is_told_from_a_whole_one() {
    let payload = Payload::new(3, 9, 1000);
    let whole = payload.bytes();
    assert_eq!(Payload::parse(&whole), Ok(payload));
    assert!(Payload::parse(&whole[..999]).is_err());
    let mut mixed = whole.clone();
    mixed[500..].copy_from_slice(&Payload::new(3, 10, 1000).bytes()[500..]);
    assert!(Payload::parse(&mixed).is_err());
}
