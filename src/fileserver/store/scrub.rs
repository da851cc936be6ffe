//! Re-reads everything, slowly and for ever, so that damage is found while there are other copies to repair it from.
//!
//! Goes through closed segments record by record, which finds damaged seals and tombstones as well as damaged chunks.
//! What the kernel has cached is dropped first: it is the disk that is to be asked.

use std::{io, sync::Arc};

use rustix::fs::Advice;

use super::{
    index::{ChunkAt, RecordAt},
    read,
    reader::{Found, Payloads, Reader},
    record::Body,
    segment::{RECORDS_START, Segment},
    shared::Shared,
};

/// Bytes that are read in one step.
pub const STEP_BYTES: u64 = 1 << 20;

/// Where the scrub is.
#[derive(Debug, Default)]
pub struct Scrub {
    /// The segment it is in, and the place in it.
    current: Option<(Arc<Segment>, u64)>,
    /// The segment it was in last.
    last: u32,
}

/// What a step has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    More,
    /// Everything closed has been read once since the last time.
    PassDone,
}

impl Scrub {
    /// Reads a little. Blocks on the disk.
    pub fn step(&mut self, shared: &Shared) -> Step {
        let Some((segment, position)) = self.current.take().filter(|(segment, _)| is_current(shared, segment)) else {
            return self.next_segment(shared);
        };
        match verify(shared, &segment, position) {
            Ok(Some(position)) => self.current = Some((segment, position)),
            Ok(None) => {}
            Err(error) => {
                let path = segment.path.display();
                tracing::error!(%error, %path, position, "cannot read a segment: the rest of it is not checked");
            }
        }
        Step::More
    }

    fn next_segment(&mut self, shared: &Shared) -> Step {
        let index = shared.index();
        let being_written = index.segments.keys().next_back().copied().unwrap_or_default();
        let next = index.segments.range(self.last.saturating_add(1)..).next();
        match next.filter(|&(&number, _)| number != being_written) {
            Some((&number, segment)) => {
                self.last = number;
                self.current = Some((Arc::clone(&segment.segment), RECORDS_START));
                Step::More
            }
            None => {
                self.last = 0;
                Step::PassDone
            }
        }
    }
}

/// Whether the segment has not been rewritten meanwhile.
fn is_current(shared: &Shared, segment: &Arc<Segment>) -> bool {
    shared.index().segments.get(&segment.number()).is_some_and(|it| Arc::ptr_eq(&it.segment, segment))
}

/// Checks the records from `position` on; answers where to go on, if there is more.
fn verify(shared: &Shared, segment: &Arc<Segment>, position: u64) -> io::Result<Option<u64>> {
    // Advice that is not taken costs nothing but the certainty that the disk was asked.
    rustix::fs::fadvise(&segment.file, position, None, Advice::DontNeed).ok();
    let mut reader = Reader::new(&*shared.disk, segment, position, Payloads::Verify)?;
    while reader.position() < position + STEP_BYTES {
        let before = reader.position();
        let found = reader.next();
        shared.counts.scrubbed_bytes.inc_by(reader.position().saturating_sub(before));
        match found {
            None => return Ok(None),
            Some(Found::Record { position, header, intact: false }) => {
                let at = RecordAt { segment: segment.number(), position: position as u32 };
                if let Body::Chunk { offset, length, .. } = header.body {
                    read::note_damage(
                        shared,
                        header.blob,
                        ChunkAt { at, offset, length: length.get() },
                        segment,
                        &shared.counts.found_by_scrub,
                    );
                }
            }
            Some(Found::Record { .. }) => {}
            Some(gap @ Found::Gap { .. }) => shared.note_gap(segment, &gap),
        }
    }
    Ok(Some(reader.position()))
}
