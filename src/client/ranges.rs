//! Which bytes of which blobs make a part of a file, and whether what came is that. Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use crate::{
    pb,
    status::Reason,
    types::{BlobId, Extent, GroupId, crc32c},
};

/// What one call asks for: enough to keep a connection busy, little enough to hold several in memory.
pub(super) const PIECE_BYTES: u64 = 4 << 20;
/// Of one call, far below what a server takes.
pub(super) const RANGES_MAX: usize = 1024;

/// A contiguous piece of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) blob: BlobId,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What one call reads: ranges of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) group: GroupId,
    pub(super) ranges: Vec<Range>,
    /// Of all ranges.
    pub(super) length: u64,
}

/// Cuts a part of a file into pieces, one after the other, so that a plan costs nothing however long the file is.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    extents: Arc<[Extent]>,
    index: usize,
    /// How far into that extent.
    within: u64,
    remaining: u64,
}

impl Pieces {
    /// `offset` and `length` lie inside of the file that the extents make.
    pub(super) fn new(extents: Arc<[Extent]>, offset: u64, length: u64) -> Self {
        let (mut index, mut within) = (0, offset);
        while let Some(extent) = extents.get(index)
            && within >= extent.length
        {
            within -= extent.length;
            index += 1;
        }
        Self { extents, index, within, remaining: length }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let group = self.extents.get(self.index).filter(|_| self.remaining > 0)?.group;
        let mut piece = Piece { group, ranges: Vec::new(), length: 0 };
        while let Some(extent) = self.extents.get(self.index)
            && extent.group == group
            && piece.ranges.len() < RANGES_MAX
        {
            let length = (extent.length - self.within).min(PIECE_BYTES - piece.length).min(self.remaining);
            if length == 0 {
                break;
            }
            piece.ranges.push(Range { blob: extent.blob, offset: extent.blob_offset + self.within, length });
            piece.length += length;
            self.remaining -= length;
            self.within += length;
            if self.within == extent.length {
                self.index += 1;
                self.within = 0;
            }
        }
        Some(piece)
    }
}

/// How much of some ranges has arrived, over several tries.
#[derive(Debug)]
pub(super) struct Arrived {
    ranges: Vec<Range>,
    /// The first range that is not complete, and how much of it is there.
    index: usize,
    within: u64,
    /// Ranges that earlier tries completed: the present one counts from here.
    base: usize,
    total: u64,
}

impl Arrived {
    pub(super) fn new(ranges: Vec<Range>) -> Self {
        Self { ranges, index: 0, within: 0, base: 0, total: 0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.index == self.ranges.len()
    }

    /// Bytes that are there.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// A new try asks for what is missing.
    pub(super) fn ask(&mut self) -> pb::ReadRequest {
        self.base = self.index;
        let mut skip = self.within;
        let missing = self.ranges.iter().skip(self.index).map(|range| {
            let skipped = std::mem::take(&mut skip);
            pb::BlobRange {
                blob: range.blob.to_string(),
                offset: range.offset + skipped,
                length: range.length - skipped,
            }
        });
        pb::ReadRequest { ranges: missing.collect() }
    }

    /// The new bytes of a chunk, and the range they belong to. A chunk may reach beyond what was asked for, on both sides:
    /// its checksum is that of the whole chunk.
    pub(super) fn take(&mut self, range_index: u32, chunk: pb::ReadChunk) -> Result<(usize, Bytes), Error> {
        let index = self.index;
        let Some(range) = self.ranges.get(index) else { return Err(Error::malformed("more than was asked for")) };
        if self.base + range_index as usize != index {
            return Err(Error::malformed("ranges are not in order"));
        }
        if crc32c(&chunk.data) != chunk.checksum {
            return Err(Error::new(Reason::ChecksumMismatch, format_args!("blob {} is damaged", range.blob)));
        }
        let wanted = range.offset + self.within;
        let missing = range.length - self.within;
        let skip = wanted.checked_sub(chunk.offset).filter(|&skip| skip < chunk.data.len() as u64);
        let Some(skip) = skip else { return Err(Error::malformed("chunks are not in order")) };
        let length = missing.min(chunk.data.len() as u64 - skip);
        let data = chunk.data.slice(skip as usize..(skip + length) as usize);
        self.total += length;
        self.within += length;
        if self.within == range.length {
            self.index += 1;
            self.within = 0;
        }
        Ok((index, data))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn an_extent(group: u32, blob: u8, blob_offset: u64, length: u64) -> Extent {
        Extent { group: GroupId(group), blob: BlobId::from_bytes([blob; 16]), blob_offset, length }
    }

    fn a_chunk(offset: u64, data: &'static [u8]) -> pb::ReadChunk {
        pb::ReadChunk { offset, data: Bytes::from_static(data), checksum: crc32c(data) }
    }

    fn a_range(blob: u8, offset: u64, length: u64) -> Range {
        Range { blob: BlobId::from_bytes([blob; 16]), offset, length }
    }

    #[test]
    fn a_part_is_cut_at_extents_groups_and_pieces() {
        let extents: Arc<[Extent]> =
            [an_extent(0, 1, 10, 5), an_extent(0, 2, 0, 5), an_extent(1, 3, 0, PIECE_BYTES + 1)].into();
        let pieces: Vec<Piece> = Pieces::new(extents.clone(), 3, PIECE_BYTES + 8).collect();
        assert_eq!(pieces[0].ranges, [a_range(1, 13, 2), a_range(2, 0, 5)]);
        assert_eq!(pieces[1].ranges, [a_range(3, 0, PIECE_BYTES)]);
        assert_eq!(pieces[2].ranges, [a_range(3, PIECE_BYTES, 1)]);
        assert_eq!(pieces.len(), 3);
        assert_eq!(Pieces::new(extents, 10 + PIECE_BYTES + 1, 0).count(), 0);
        assert_eq!(Pieces::new([].into(), 0, 0).count(), 0);
    }

    #[test]
    fn very_many_extents_are_several_calls() {
        let extents: Arc<[Extent]> = (0..RANGES_MAX + 1).map(|_| an_extent(0, 1, 0, 1)).collect();
        let counts: Vec<usize> =
            Pieces::new(extents, 0, RANGES_MAX as u64 + 1).map(|piece| piece.ranges.len()).collect();
        assert_eq!(counts, [RANGES_MAX, 1]);
    }

    #[test]
    fn a_second_try_asks_for_the_rest_only() {
        let mut arrived = Arrived::new(vec![a_range(1, 100, 3), a_range(2, 0, 4)]);
        assert_eq!(arrived.ask().ranges.len(), 2);
        assert_eq!(arrived.take(0, a_chunk(100, b"abc")).unwrap(), (0, Bytes::from_static(b"abc")));
        assert_eq!(arrived.take(1, a_chunk(0, b"d")).unwrap(), (1, Bytes::from_static(b"d")));
        let again = arrived.ask().ranges;
        assert_eq!(again.len(), 1);
        assert_eq!((again[0].offset, again[0].length), (1, 3));
        // The other server's chunks are cut elsewhere, and reach beyond what was asked for.
        assert_eq!(arrived.take(0, a_chunk(0, b"defghi")).unwrap(), (1, Bytes::from_static(b"efg")));
        assert!(arrived.is_complete());
        assert_eq!(arrived.total(), 7);
    }

    #[test]
    fn damage_gaps_and_surplus_are_refused_and_take_nothing() {
        let mut arrived = Arrived::new(vec![a_range(1, 10, 4)]);
        arrived.ask();
        let damaged = pb::ReadChunk { checksum: 1, ..a_chunk(10, b"abcd") };
        assert_eq!(arrived.take(0, damaged).unwrap_err().reason(), Reason::ChecksumMismatch);
        for chunk in [a_chunk(11, b"bcd"), a_chunk(8, b"xy"), a_chunk(10, b"")] {
            assert_eq!(arrived.take(0, chunk).unwrap_err().reason(), Reason::Internal);
        }
        assert!(arrived.take(1, a_chunk(10, b"abcd")).is_err());
        assert!(arrived.take(u32::MAX, a_chunk(10, b"abcd")).is_err());
        assert_eq!(arrived.total(), 0);
        assert!(arrived.take(0, a_chunk(10, b"abcd")).is_ok());
        assert!(arrived.take(0, a_chunk(14, b"e")).is_err());
    }

    proptest! {
        #[test]
        fn pieces_are_exactly_the_part(lengths in prop::collection::vec((0..3_u32, 1..3 * PIECE_BYTES), 0..20), a: u64, b: u64) {
            let extents: Arc<[Extent]> =
                lengths.iter().enumerate().map(|(at, &(group, length))| an_extent(group, at as u8, 7, length)).collect();
            let size: u64 = lengths.iter().map(|&(_, length)| length).sum();
            let (start, end) = { let (a, b) = (a % (size + 1), b % (size + 1)); (a.min(b), a.max(b)) };
            let mut position = start;
            for piece in Pieces::new(extents.clone(), start, end - start) {
                prop_assert!(piece.length > 0 && piece.length <= PIECE_BYTES);
                prop_assert_eq!(piece.length, piece.ranges.iter().map(|range| range.length).sum::<u64>());
                for range in &piece.ranges {
                    let mut begin = 0;
                    let extent = extents.iter().find(|extent| { let inside = position < begin + extent.length; if !inside { begin += extent.length; } inside }).unwrap();
                    prop_assert_eq!((extent.group, extent.blob), (piece.group, range.blob));
                    prop_assert_eq!(range.offset, extent.blob_offset + position - begin);
                    prop_assert!(position + range.length <= begin + extent.length);
                    position += range.length;
                }
            }
            prop_assert_eq!(position, end);
        }
    }
}
