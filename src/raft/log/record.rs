//! The bytes of a log segment: a header, then records. `docs/format.md` has the table.

use bytes::{Buf, BufMut};
use prost::Message;

use crate::{
    pb,
    raft::{
        convert::{entry_in, entry_out, log_id, term_of},
        types::{Entry, LogId},
    },
    types::crc32c,
};

pub const SEGMENT_MAGIC: [u8; 8] = *b"dfs:rlog";
pub const SEGMENT_FORMAT: u32 = 1;
/// Where the first record begins.
pub const RECORDS_START: usize = 64;
const SEGMENT_HEADER_LENGTH: usize = 40;
const RECORD_MAGIC: u16 = 0xd1f5;
/// Magic, kind, synced, length, checksum.
pub const RECORD_HEADER_LENGTH: usize = 16;
const KIND_ENTRY: u16 = 1;
const KIND_COMMITTED: u16 = 2;

/// What a record says.
#[derive(Debug, PartialEq)]
pub enum Record {
    Entry(Entry),
    /// Known to be committed; a hint, never synced for its own sake.
    Committed(LogId),
}

/// A record as it was found.
#[derive(Debug)]
pub struct Found {
    pub record: Record,
    /// With its header.
    pub length: usize,
}

/// What stands before a segment's first entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// The entry before its first.
    pub previous: Option<LogId>,
    /// Entries between the older segments and this one are missing on purpose: a snapshot has taken their place.
    pub anew: bool,
}

/// The header of a segment.
pub fn segment_header(label: &Label) -> Vec<u8> {
    let previous = &label.previous;
    let kind = match (previous, label.anew) {
        (None, _) => 0,
        (Some(_), false) => 1,
        (Some(_), true) => 2,
    };
    let mut bytes = Vec::with_capacity(RECORDS_START);
    bytes.put_slice(&SEGMENT_MAGIC);
    bytes.put_u32_le(SEGMENT_FORMAT);
    bytes.put_u32_le(kind);
    bytes.put_u64_le(previous.as_ref().map_or(0, term_of));
    bytes.put_u64_le(previous.as_ref().map_or(0, |id| id.index));
    bytes.put_u32_le(0);
    bytes.put_u32_le(crc32c(&bytes));
    bytes.resize(RECORDS_START, 0);
    bytes
}

/// Why some bytes are no header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    Damaged(&'static str),
    TooNew,
}

/// What a segment's header says; or why it is no header.
pub fn read_segment_header(bytes: &[u8]) -> Result<Label, BadHeader> {
    let short = BadHeader::Damaged("a segment is too short for its header");
    let header = bytes.get(..SEGMENT_HEADER_LENGTH).ok_or(short)?;
    let (sealed, mut checksum) = header.split_at(SEGMENT_HEADER_LENGTH - 4);
    if checksum.get_u32_le() != crc32c(sealed) {
        return Err(BadHeader::Damaged("the header of a segment does not match its checksum"));
    }
    let mut fields = sealed.get(SEGMENT_MAGIC.len()..).ok_or(short)?;
    if !sealed.starts_with(&SEGMENT_MAGIC) {
        return Err(BadHeader::Damaged("a segment begins with another magic"));
    }
    if fields.get_u32_le() > SEGMENT_FORMAT {
        return Err(BadHeader::TooNew);
    }
    let kind = fields.get_u32_le();
    let (term, index) = (fields.get_u64_le(), fields.get_u64_le());
    Ok(Label { previous: (kind != 0).then(|| log_id(term, index)), anew: kind == 2 })
}

/// Adds a record to `bytes`; [`stamp`] completes it when it is known where it goes.
pub fn encode(record: &Record, bytes: &mut Vec<u8>) {
    let (kind, payload) = match record {
        Record::Entry(entry) => (KIND_ENTRY, entry_out(entry).encode_to_vec()),
        Record::Committed(id) => (KIND_COMMITTED, pb::LogId { term: term_of(id), index: id.index }.encode_to_vec()),
    };
    bytes.put_u16_le(RECORD_MAGIC);
    bytes.put_u16_le(kind);
    bytes.put_u32_le(0);
    bytes.put_u32_le(payload.len() as u32);
    bytes.put_u32_le(0);
    bytes.extend(payload);
}

/// Writes into an encoded record how far its segment is synced, and its checksum.
pub fn stamp(record: &mut [u8], synced: u32) {
    let checksum_at = RECORD_HEADER_LENGTH - 4;
    if let Some(mut field) = record.get_mut(4..8) {
        field.put_u32_le(synced);
    }
    let checksum = checksum(record).unwrap_or_default();
    if let Some(mut field) = record.get_mut(checksum_at..RECORD_HEADER_LENGTH) {
        field.put_u32_le(checksum);
    }
}

/// Of all of the record but the checksum itself.
fn checksum(record: &[u8]) -> Option<u32> {
    let (header, payload) = record.split_at_checked(RECORD_HEADER_LENGTH)?;
    let sums = [crc32c(header.get(..RECORD_HEADER_LENGTH - 4)?), crc32c(payload)];
    Some(crc32c(&[sums[0].to_le_bytes(), sums[1].to_le_bytes()].concat()))
}

/// A record whose checksum holds, whatever it says.
struct Whole<'a> {
    kind: u16,
    synced: u32,
    payload: &'a [u8],
}

fn whole(bytes: &[u8]) -> Option<Whole<'_>> {
    let mut header = bytes.get(..RECORD_HEADER_LENGTH)?;
    if header.get_u16_le() != RECORD_MAGIC {
        return None;
    }
    let (kind, synced) = (header.get_u16_le(), header.get_u32_le());
    let length = RECORD_HEADER_LENGTH.checked_add(header.get_u32_le() as usize)?;
    let record = bytes.get(..length)?;
    let is_intact = header.get_u32_le() == checksum(record)?;
    is_intact.then_some(Whole { kind, synced, payload: record.get(RECORD_HEADER_LENGTH..)? })
}

/// How far its segment was synced, as the record says that begins here. It says so also where the rest of it cannot be read,
/// being a newer version's.
pub fn synced_of(bytes: &[u8]) -> Option<u32> {
    whole(bytes).map(|whole| whole.synced)
}

/// The record at the beginning of `bytes`, if there is one, whole and undamaged.
pub fn decode(bytes: &[u8]) -> Option<Found> {
    let Whole { kind, payload, .. } = whole(bytes)?;
    let record = match kind {
        KIND_ENTRY => Record::Entry(entry_in(pb::LogEntry::decode(payload).ok()?).ok()?),
        KIND_COMMITTED => {
            let id = pb::LogId::decode(payload).ok()?;
            Record::Committed(log_id(id.term, id.index))
        }
        _ => return None,
    };
    Some(Found { record, length: RECORD_HEADER_LENGTH + payload.len() })
}

/// Whether `bytes` may be the beginning of a record: cheap, to look for one among anything.
pub fn looks_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(&RECORD_MAGIC.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::types::{Payload, Proposal};

    fn an_entry() -> Record {
        Record::Entry(Entry { log_id: log_id(3, 8), payload: Payload::Normal(Proposal("payload".into())) })
    }

    #[test]
    fn a_record_is_read_as_written_and_no_flipped_bit_passes() {
        for record in [an_entry(), Record::Committed(log_id(3, 8))] {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            stamp(&mut bytes, 4096);
            let found = decode(&bytes).unwrap();
            assert_eq!((found.record, found.length, synced_of(&bytes)), (record, bytes.len(), Some(4096)));
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&bad).is_none(), "bit {bit}");
            }
            for length in 0..bytes.len() {
                assert!(decode(&bytes[..length]).is_none(), "length {length}");
            }
        }
    }

    /// A record of any kind with any payload, whose checksum holds.
    fn sealed(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u16_le(RECORD_MAGIC);
        bytes.put_u16_le(kind);
        bytes.put_u32_le(0);
        bytes.put_u32_le(payload.len() as u32);
        bytes.put_u32_le(0);
        bytes.extend(payload);
        stamp(&mut bytes, 64);
        bytes
    }

    proptest! {
        #[test]
        fn any_payload_is_a_record_or_none_and_what_is_read_can_be_written(
            kind in 0..4_u16,
            payload in prop::collection::vec(any::<u8>(), 0..40),
            edit in any::<(prop::sample::Index, u8)>(),
        ) {
            let mut nearly = entry_out(&Entry { log_id: log_id(3, 8), payload: Payload::Blank }).encode_to_vec();
            let at = edit.0.index(nearly.len());
            nearly[at] ^= edit.1;
            for payload in [&payload, &nearly] {
                let bytes = sealed(kind, payload);
                prop_assert_eq!(synced_of(&bytes), Some(64));
                if let Some(found) = decode(&bytes) {
                    prop_assert_eq!(found.length, bytes.len());
                    let mut again = Vec::new();
                    encode(&found.record, &mut again);
                    stamp(&mut again, 64);
                    prop_assert_eq!(decode(&again).map(|found| found.record), Some(found.record));
                }
            }
        }

        #[test]
        fn any_bytes_are_no_record(mut bytes in prop::collection::vec(any::<u8>(), 16..200), length: u32) {
            bytes[..2].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
            bytes[8..12].copy_from_slice(&(length % 256).to_le_bytes());
            prop_assert!(decode(&bytes).is_none() && read_segment_header(&bytes).is_err());
        }
    }

    #[test]
    fn a_segment_says_what_it_follows() {
        for (previous, anew) in [(None, false), (Some(log_id(0, 0)), false), (Some(log_id(4, 17)), true)] {
            let label = Label { previous, anew };
            let bytes = segment_header(&label);
            assert_eq!(bytes.len(), RECORDS_START);
            assert_eq!(read_segment_header(&bytes), Ok(label));
            for bit in 0..SEGMENT_HEADER_LENGTH * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(read_segment_header(&bad).is_err(), "bit {bit}");
            }
        }
    }
}
