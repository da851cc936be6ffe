//! What is asked of the writer, what records it comes to, and who waits for them.

use std::{io, num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Writer;
use crate::{
    fileserver::store::{
        index::{Index, Open},
        log::Frame,
        record::Body,
        types::StoreError,
    },
    types::{BlobId, Inode, Version},
};

pub type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Something to do, and the room it takes in the queue.
pub struct Request {
    pub work: Work,
    pub room: OwnedSemaphorePermit,
}

pub enum Work {
    Chunk {
        blob: BlobId,
        generation: u64,
        offset: u32,
        length: NonZeroU32,
        checksum: u32,
        data: Bytes,
    },
    /// Answered when durable.
    Seal {
        blob: BlobId,
        generation: u64,
        length: u32,
        checksum: u32,
        answer: Answer,
    },
    /// Answered when written.
    Publish {
        blob: BlobId,
        inode: Inode,
        version: Version,
        answer: Answer,
    },
    /// Answered when written.
    Discard {
        blob: BlobId,
        answer: Answer,
    },
    /// Answered when durable.
    Delete {
        blobs: Vec<BlobId>,
        answer: Answer,
    },
    /// Answered when everything before is durable and the writer has ended.
    Close {
        answer: Answer,
    },
}

/// What a record means for the index: chunks and publications when written, seals and deletions when durable.
pub enum Effect {
    Chunk { generation: u64, offset: u32, length: u32 },
    Publish { inode: Inode, version: Version },
    Seal { generation: u64, length: u32, checksum: u32 },
    Delete,
    Nothing,
}

/// Who waits for what.
pub enum Waiting {
    Written(Answer),
    Durable(Answer),
    /// Durable, and then only if it is this that was sealed.
    Sealed {
        blob: BlobId,
        length: u32,
        checksum: u32,
        answer: Answer,
    },
}

impl Waiting {
    pub fn refuse(self, error: StoreError) {
        let (Self::Written(answer) | Self::Durable(answer) | Self::Sealed { answer, .. }) = self;
        reply(answer, Err(error));
    }
}

/// A caller that has gone away does not want to know.
pub fn reply(answer: Answer, result: Result<(), StoreError>) {
    answer.send(result).ok();
}

/// What the requests of a turn come to.
#[derive(Default)]
pub struct Plan {
    pub frames: Vec<Frame>,
    pub effects: Vec<(BlobId, Effect)>,
    pub waiting: Vec<Waiting>,
}

impl Plan {
    pub fn of(frame: Frame, effect: Effect) -> Self {
        let mut plan = Self::default();
        plan.push(frame, effect);
        plan
    }

    pub fn push(&mut self, frame: Frame, effect: Effect) {
        self.effects.push((frame.blob, effect));
        self.frames.push(frame);
    }

    pub fn publishes(&self, blob: BlobId) -> bool {
        self.effects.iter().any(|(it, effect)| *it == blob && matches!(effect, Effect::Publish { .. }))
    }

    pub fn has_data(&self) -> bool {
        self.effects.iter().any(|(_, effect)| matches!(effect, Effect::Chunk { .. }))
    }
}

impl Writer {
    /// Turns a request into records and into what they mean.
    pub(super) fn plan(&mut self, work: Work, index: &mut Index, plan: &mut Plan) {
        match work {
            Work::Chunk { blob, generation, offset, length, checksum, data } => {
                let Some(open) = current(index, blob, generation).filter(|open| open.failed.is_none()) else { return };
                let frame = Frame {
                    group: open.group,
                    blob,
                    write_id: open.write_id,
                    body: Body::Chunk { offset, length, checksum },
                    payload: data,
                };
                plan.push(frame, Effect::Chunk { generation, offset, length: length.get() });
            }
            Work::Seal { blob, generation, length, checksum, answer } => {
                if let Some(open) = current(index, blob, generation) {
                    if let Some(error) = open.failed.clone() {
                        return reply(answer, Err(error));
                    }
                    if self.sealing.insert((blob, generation)) {
                        let frame = Frame::bare(open.group, blob, open.write_id, Body::Seal { length, checksum });
                        plan.push(frame, Effect::Seal { generation, length, checksum });
                    }
                }
                plan.waiting.push(Waiting::Sealed { blob, length, checksum, answer });
            }
            Work::Publish { blob, inode, version, answer } => {
                let Some(sealed) = index.sealed(blob) else {
                    return reply(answer, Err(StoreError::NoSuchBlob(blob)));
                };
                if sealed.published.is_none_or(|published| (published.inode, published.version) != (inode, version)) {
                    let (length, checksum) = (sealed.length, sealed.checksum);
                    let body = Body::Publish { inode, version, length, checksum };
                    let frame = Frame::bare(sealed.group, blob, sealed.write_id, body);
                    plan.push(frame, Effect::Publish { inode, version });
                }
                plan.waiting.push(Waiting::Written(answer));
            }
            Work::Discard { blob, answer } => {
                let published = index.sealed(blob).is_some_and(|sealed| sealed.published.is_some());
                if published || plan.publishes(blob) {
                    return reply(answer, Err(StoreError::Published(blob)));
                }
                self.plan_delete(blob, index, plan);
                plan.waiting.push(Waiting::Written(answer));
            }
            Work::Delete { blobs, answer } => {
                for blob in blobs {
                    self.plan_delete(blob, index, plan);
                }
                plan.waiting.push(Waiting::Durable(answer));
            }
            Work::Close { answer } => self.closing.push(answer),
        }
    }

    fn plan_delete(&self, blob: BlobId, index: &Index, plan: &mut Plan) {
        let Some(record) = index.record(blob) else { return };
        let oldest_segment = index.oldest_segment(blob).unwrap_or(self.log.segment().number());
        let frame = Frame::bare(record.group, blob, record.write_id, Body::Delete { oldest_segment });
        plan.push(frame, Effect::Delete);
    }

    /// The data of a plan cannot be written, and its blobs cannot be sealed any more.
    pub(super) fn refuse_data(&mut self, plan: Plan, error: &io::Error) -> Plan {
        let refusal = self.shared.note_no_room(error);
        let shared = Arc::clone(&self.shared);
        let mut index = shared.index();
        for (blob, effect) in &plan.effects {
            if let Effect::Chunk { generation, .. } = effect
                && let Some(open) = index.open.get_mut(blob).filter(|open| open.generation == *generation)
            {
                open.failed = Some(refusal.clone());
                open.sealing = false;
            }
        }
        let failed = |blob: &BlobId| index.open.get(blob).is_some_and(|open| open.failed.is_some());
        let mut rest = Plan::default();
        for (frame, (blob, effect)) in plan.frames.into_iter().zip(plan.effects) {
            match effect {
                Effect::Chunk { .. } => {}
                Effect::Seal { generation, .. } if failed(&blob) => {
                    self.sealing.remove(&(blob, generation));
                }
                effect => rest.push(frame, effect),
            }
        }
        for waiting in plan.waiting {
            match waiting {
                Waiting::Sealed { blob, answer, .. } if failed(&blob) => reply(answer, Err(refusal.clone())),
                waiting => rest.waiting.push(waiting),
            }
        }
        rest
    }

    /// A plan was not carried out: its blobs are no longer being sealed.
    pub(super) fn unplan(&mut self, plan: &Plan, refusal: &StoreError) {
        let mut index = self.shared.index();
        for (blob, effect) in &plan.effects {
            if let Effect::Seal { generation, .. } = effect {
                self.sealing.remove(&(*blob, *generation));
            }
            if let Effect::Seal { generation, .. } | Effect::Chunk { generation, .. } = effect
                && let Some(open) = index.open.get_mut(blob).filter(|open| open.generation == *generation)
            {
                open.failed = Some(refusal.clone());
                open.sealing = false;
            }
        }
    }
}

/// The open blob, if it is still the same beginning of it.
pub fn current(index: &Index, blob: BlobId, generation: u64) -> Option<&Open> {
    index.open.get(&blob).filter(|open| open.generation == generation)
}
