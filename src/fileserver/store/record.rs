//! One record of the log: a header of fixed length, and a payload that only chunks have.
//!
//! The header's checksum also covers the position at which the record stands and the salt of its segment, neither of
//! which is in the header: a record at the wrong place is not a record, and nor are bytes that a client stored in a
//! chunk, even if they are a copy of a segment. So a search for the next good record after damaged bytes finds none but
//! ours. `docs/format.md` has every byte.

use std::num::NonZeroU32;

use bytes::{Buf, BufMut};

use crate::types::{BLOB_LENGTH_MAX, BlobId, CHUNK_LENGTH_MAX, GroupId, Inode, Version, WriteId, crc32c};

/// Length of a header, in bytes.
pub const HEADER_LENGTH: usize = 96;
/// Records begin at multiples of this, so that a search for one need not look at every byte.
pub const ALIGNMENT: u64 = 8;

const MAGIC: [u8; 4] = *b"dfsR";
const FORMAT: u8 = 1;
/// Where the header's own checksum stands, and the checksummed part ends.
const CHECKSUM_AT: usize = 88;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The payload is the blob's bytes from `offset` on. Offset 0 begins the blob, afresh if need be.
    Chunk { offset: u32, length: NonZeroU32, checksum: u32 },
    /// The blob is complete.
    Seal { length: u32, checksum: u32 },
    /// The blob was committed; `length` and `checksum` as in its seal, which this stands in for should that be damaged.
    Publish { inode: Inode, version: Version, length: u32, checksum: u32 },
    /// The blob is gone. No segment before `oldest_segment` ever held anything of it that counts.
    Delete { oldest_segment: u32 },
    /// Says nothing but that the batches before its own were synced.
    Marker,
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Everything written between two syncs has the same number, and no number comes twice.
    pub batch: u64,
    /// Where in the segment its batch begins: all before it was synced before any of the batch was written.
    pub batch_start: u32,
    pub group: GroupId,
    pub blob: BlobId,
    pub write_id: WriteId,
    pub body: Body,
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Chunk { .. } => 1,
            Self::Seal { .. } => 2,
            Self::Publish { .. } => 3,
            Self::Delete { .. } => 4,
            Self::Marker => 5,
        }
    }
}

impl Header {
    /// Bytes of payload; 0 for all but chunks.
    pub fn payload_length(&self) -> u32 {
        match self.body {
            Body::Chunk { length, .. } => length.get(),
            _ => 0,
        }
    }

    /// Bytes that the record takes in the log.
    pub fn record_length(&self) -> u64 {
        record_length(self.payload_length())
    }

    /// For a record that stands at `position` of a segment with this `salt`.
    pub fn encode(&self, salt: u64, position: u64) -> Vec<u8> {
        let (a, b, length, checksum) = match self.body {
            Body::Chunk { offset, length, checksum } => (u64::from(offset), 0, length.get(), checksum),
            Body::Seal { length, checksum } => (0, 0, length, checksum),
            Body::Publish { inode, version, length, checksum } => (inode.0, version.0, length, checksum),
            Body::Delete { oldest_segment } => (u64::from(oldest_segment), 0, 0, 0),
            Body::Marker => (0, 0, 0, 0),
        };
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.put_slice(&MAGIC);
        bytes.put_slice(&[FORMAT, self.body.kind(), 0, 0]);
        bytes.put_u64_le(self.batch);
        bytes.put_u32_le(self.batch_start);
        bytes.put_u32_le(self.group.0);
        bytes.put_slice(self.blob.as_bytes());
        bytes.put_slice(self.write_id.as_bytes());
        bytes.put_u64_le(a);
        bytes.put_u64_le(b);
        bytes.put_u32_le(length);
        bytes.put_u32_le(checksum);
        bytes.put_u64_le(0);
        bytes.put_u32_le(seal(&bytes, salt, position));
        bytes.put_u32_le(0);
        bytes
    }

    /// The header that stands at `position`, if these bytes are one.
    pub fn decode(bytes: &[u8; HEADER_LENGTH], salt: u64, position: u64) -> Option<Self> {
        let (covered, mut rest) = bytes.split_at(CHECKSUM_AT);
        if !covered.starts_with(&MAGIC) || rest.get_u32_le() != seal(covered, salt, position) {
            return None;
        }
        let mut fields = covered;
        fields.advance(MAGIC.len());
        let (format, kind, _) = (fields.get_u8(), fields.get_u8(), fields.get_u16_le());
        let (batch, batch_start, group) = (fields.get_u64_le(), fields.get_u32_le(), fields.get_u32_le());
        let (blob, write_id) = (fields.get_u128().to_be_bytes(), fields.get_u128().to_be_bytes());
        let (a, b) = (fields.get_u64_le(), fields.get_u64_le());
        let (length, checksum) = (fields.get_u32_le(), fields.get_u32_le());
        if format != FORMAT {
            return None;
        }
        let body = match kind {
            1 => Body::Chunk {
                offset: u32::try_from(a).ok().filter(|&offset| u64::from(offset) < BLOB_LENGTH_MAX)?,
                length: NonZeroU32::new(length).filter(|length| length.get() as usize <= CHUNK_LENGTH_MAX)?,
                checksum,
            },
            2 => Body::Seal { length, checksum },
            3 => Body::Publish { inode: Inode(a), version: Version(b), length, checksum },
            4 => Body::Delete { oldest_segment: u32::try_from(a).ok()? },
            5 => Body::Marker,
            _ => return None,
        };
        Some(Self {
            batch,
            batch_start,
            group: GroupId(group),
            blob: BlobId::from_bytes(blob),
            write_id: WriteId::from_bytes(write_id),
            body,
        })
    }
}

/// Bytes that a record with this much payload takes in the log.
pub fn record_length(payload_length: u32) -> u64 {
    (HEADER_LENGTH as u64 + u64::from(payload_length)).next_multiple_of(ALIGNMENT)
}

/// Whether a header might begin here; cheaper than decoding.
pub fn may_begin(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn seal(covered: &[u8], salt: u64, position: u64) -> u32 {
    crc32c(&[&salt.to_le_bytes(), &position.to_le_bytes(), covered].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn any_header() -> impl Strategy<Value = Header> {
        let body = prop_oneof![
            (0..BLOB_LENGTH_MAX as u32, 1..=CHUNK_LENGTH_MAX as u32, any::<u32>()).prop_map(
                |(offset, length, checksum)| Body::Chunk { offset, length: NonZeroU32::new(length).unwrap(), checksum }
            ),
            (any::<u32>(), any::<u32>()).prop_map(|(length, checksum)| Body::Seal { length, checksum }),
            any::<(u64, u64, u32, u32)>().prop_map(|(inode, version, length, checksum)| Body::Publish {
                inode: Inode(inode),
                version: Version(version),
                length,
                checksum
            }),
            any::<u32>().prop_map(|oldest_segment| Body::Delete { oldest_segment }),
            Just(Body::Marker),
        ];
        (any::<(u64, u32, u32, [u8; 16], [u8; 16])>(), body).prop_map(
            |((batch, batch_start, group, blob, write), body)| Header {
                batch,
                batch_start,
                group: GroupId(group),
                blob: BlobId::from_bytes(blob),
                write_id: WriteId::from_bytes(write),
                body,
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_reads_back_at_its_place_and_nowhere_else(header in any_header(), salt: u64, position: u64) {
            let bytes: [u8; HEADER_LENGTH] = header.encode(salt, position).try_into().unwrap();
            prop_assert_eq!(Header::decode(&bytes, salt, position), Some(header));
            prop_assert_eq!(Header::decode(&bytes, salt, position.wrapping_add(8)), None);
            prop_assert_eq!(Header::decode(&bytes, salt ^ 1, position), None);
        }

        #[test]
        fn no_flipped_bit_of_the_covered_part_goes_unseen(header in any_header(), bit in 0..(CHECKSUM_AT + 4) * 8) {
            let mut bytes: [u8; HEADER_LENGTH] = header.encode(7, 4096).try_into().unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes, 7, 4096), None);
        }

        #[test]
        fn arbitrary_bytes_are_no_header_and_no_panic(mut bytes: [[u8; 32]; 3]) {
            bytes[0][..6].copy_from_slice(b"dfsR\x01\x01");
            let bytes: [u8; HEADER_LENGTH] = bytes.concat().try_into().unwrap();
            prop_assert_eq!(Header::decode(&bytes, 1, 4096), None);
        }
    }
}
