//! Moving blobs between file servers: the primary's streams to its replicas, their end of it, and catching up.

pub mod catch_up;
pub mod fetch;
pub mod join;
pub mod push;
pub mod receiver;
pub mod sender;

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, futures::Notified};

use crate::{
    fileserver::{
        in_sync::{Copies, Effect, Group},
        locked,
    },
    status::Failure,
    types::{BlobId, ServerId},
};

/// The share of the process's memory that a frame takes while it is on its way; given back with the last clone.
pub type Memory = Arc<Option<OwnedSemaphorePermit>>;

/// A member that would not take a blob.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub blob: BlobId,
    pub member: ServerId,
    pub failure: Failure,
}

/// How the copies of one write come along; the streams tell, the write listens.
pub struct Progress {
    state: Mutex<State>,
    changed: Notify,
    moved: AtomicU64,
    interrupted: AtomicBool,
}

struct State {
    copies: Copies,
    refusals: Vec<Refusal>,
}

impl Progress {
    pub fn new(primary: ServerId) -> Self {
        let state = State { copies: Copies::new(primary), refusals: Vec::new() };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            moved: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// A part of a whole blob has been sent to a member that lacked it.
    pub fn moves(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Rises as long as whole blobs are being sent.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Resolves after the next change, also one that happens before it is first polled.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub fn add(&self, blob: BlobId) {
        self.state().copies.add(blob);
    }

    pub fn sending(&self, blob: BlobId, member: ServerId) {
        self.state().copies.sending(blob, member);
    }

    pub fn durable(&self, blob: BlobId, member: ServerId) {
        self.state().copies.durable(blob, member);
        self.changed.notify_one();
    }

    pub fn lost(&self, blob: BlobId, member: &ServerId) {
        self.interrupted.store(true, Ordering::Relaxed);
        self.state().copies.lost(blob, member);
        self.changed.notify_one();
    }

    /// Whether a copy was ever lost: its member may have kept it, and not hear on any stream what became of the write.
    pub fn was_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// The copy stays marked as on its way until whoever takes the refusal says [`Self::lost`].
    pub fn refused(&self, refusal: Refusal) {
        self.state().refusals.push(refusal);
        self.changed.notify_one();
    }

    pub fn take_refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.state().refusals)
    }

    pub fn complete(&self) {
        self.state().copies.complete();
    }

    pub fn refused_stale(&self, current: crate::types::Epoch) {
        self.state().copies.refused_stale(current);
    }

    pub fn not_committed(&self) {
        self.state().copies.not_committed();
    }

    pub fn advance(&self, group: &Group) -> Vec<Effect> {
        self.state().copies.advance(group)
    }

    pub fn missing(&self, group: &Group) -> Vec<ServerId> {
        self.state().copies.missing(group).cloned().collect()
    }
}
