//! What this server accepts from a primary, and which blobs it must not settle yet.
//!
//! Accepting data is always safe: a blob counts only once the Directory has committed it, and the Directory checks the
//! primary's epoch. So a primary that is *ahead* of this server is believed; one that is *behind* is told so, to spare it
//! the work. Throwing data away is what needs care: only the server that sent a blob may have it discarded, and never once
//! it is published.
//!
//! A blob that came over a stream is *held* by it: its write may be under way for minutes, so it must not be settled as
//! abandoned. A hold ends with publish or discard, or some time after the stream has ended, for a primary that lost its
//! connection comes back and claims its blobs again.
//!
//! No I/O, and `now` is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    fileserver::in_sync::Group,
    types::{BLOB_LENGTH_MAX, BlobId, Epoch, GroupId, ServerId},
};

/// Blobs that one stream may have open at a time: more than a primary ever has writes under way.
const OPEN_BLOBS_MAX: usize = 4096;

/// Who brings a blob: a primary's stream, or this server's own catching up. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceId(pub u64);

/// Why a primary's message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this server is not a member of group {group}")]
    NotAMember { group: GroupId },
    #[error("group {group} is at epoch {current}, not {theirs}")]
    StaleEpoch { group: GroupId, theirs: Epoch, current: Epoch },
    #[error("{server} is not the primary of group {group}")]
    NotThePrimary { group: GroupId, server: ServerId },
    #[error("chunk at {given} of blob {blob}, which has {expected} bytes so far")]
    OutOfOrder { blob: BlobId, given: u64, expected: u64 },
    #[error("blob {blob} is not open on this stream")]
    NotOpen { blob: BlobId },
    #[error("blob {blob} would have more than {BLOB_LENGTH_MAX} bytes")]
    TooLong { blob: BlobId },
    #[error("more than {OPEN_BLOBS_MAX} blobs are open on this stream")]
    TooManyOpen,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do what it says.
    Accept,
    /// The whole blob is on stable storage already.
    Have,
    /// It concerns a blob that was refused or is not this stream's: nothing to do, nothing to say.
    Ignore,
}

/// How much of a blob the store has when it is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing, or an unfinished part that starts afresh.
    Part,
    Whole,
}

#[derive(Debug)]
enum State {
    Receiving { length: u64 },
    Sealing,
    Durable,
}

#[derive(Debug)]
struct Held {
    source: SourceId,
    state: State,
}

/// The blobs that are coming in, or came in and were not published yet.
#[derive(Debug)]
pub struct Replica {
    me: ServerId,
    /// How long a blob is spared after the stream that held it ended.
    grace: Duration,
    held: HashMap<BlobId, Held>,
    released: HashMap<BlobId, Instant>,
    open_counts: HashMap<SourceId, usize>,
}

impl Replica {
    pub fn new(me: ServerId, grace: Duration) -> Self {
        Self { me, grace, held: HashMap::new(), released: HashMap::new(), open_counts: HashMap::new() }
    }

    /// A primary begins a blob, or claims one that it sent before.
    pub fn begin(
        &mut self,
        source: SourceId,
        primary: &ServerId,
        blob: BlobId,
        (group_id, epoch): (GroupId, Epoch),
        group: Option<&Group>,
        stored: Stored,
    ) -> Result<Verdict, Refused> {
        let group = group.filter(|group| group.members.contains(&self.me));
        let group = group.ok_or(Refused::NotAMember { group: group_id })?;
        if epoch < group.epoch {
            return Err(Refused::StaleEpoch { group: group_id, theirs: epoch, current: group.epoch });
        }
        if epoch == group.epoch && !group.is_led_by(primary) {
            return Err(Refused::NotThePrimary { group: group_id, server: primary.clone() });
        }
        self.take(source, blob, stored)
    }

    /// This server fetches a blob by itself. `false`: somebody else is bringing it, or has just brought it.
    pub fn begin_fetch(&mut self, source: SourceId, blob: BlobId) -> bool {
        !self.is_brought_by_another(source, blob) && self.take(source, blob, Stored::Part).is_ok()
    }

    /// Whether another source than this one is bringing the blob, or has brought it.
    pub fn is_brought_by_another(&self, source: SourceId, blob: BlobId) -> bool {
        self.held.get(&blob).is_some_and(|held| held.source != source)
    }

    fn take(&mut self, source: SourceId, blob: BlobId, stored: Stored) -> Result<Verdict, Refused> {
        let state = match stored {
            Stored::Whole => State::Durable,
            Stored::Part => State::Receiving { length: 0 },
        };
        let open = self.open_counts.entry(source).or_default();
        if stored == Stored::Part && *open >= OPEN_BLOBS_MAX {
            return Err(Refused::TooManyOpen);
        }
        if stored == Stored::Part {
            *open += 1;
        }
        self.released.remove(&blob);
        if let Some(before) = self.held.insert(blob, Held { source, state }) {
            self.count_closed(&before);
        }
        Ok(if stored == Stored::Whole { Verdict::Have } else { Verdict::Accept })
    }

    fn count_closed(&mut self, held: &Held) {
        if let State::Receiving { .. } = held.state
            && let Some(open) = self.open_counts.get_mut(&held.source)
        {
            *open = open.saturating_sub(1);
        }
    }

    fn of_source(&mut self, source: SourceId, blob: BlobId) -> Option<&mut Held> {
        self.held.get_mut(&blob).filter(|held| held.source == source)
    }

    /// The next bytes of a blob.
    pub fn chunk(&mut self, source: SourceId, blob: BlobId, offset: u64, length: u64) -> Result<Verdict, Refused> {
        match self.of_source(source, blob).map(|held| &mut held.state) {
            None => Ok(Verdict::Ignore),
            Some(State::Durable | State::Sealing) => Ok(Verdict::Have),
            Some(State::Receiving { length: so_far }) => {
                if offset != *so_far {
                    return Err(Refused::OutOfOrder { blob, given: offset, expected: *so_far });
                }
                let longer = so_far.checked_add(length).filter(|longer| *longer <= BLOB_LENGTH_MAX);
                *so_far = longer.ok_or(Refused::TooLong { blob })?;
                Ok(Verdict::Accept)
            }
        }
    }

    /// The blob is complete. [`Verdict::Ignore`]: it is being made durable already, and that will be answered.
    pub fn seal(&mut self, source: SourceId, blob: BlobId) -> Result<Verdict, Refused> {
        let held = self.of_source(source, blob).ok_or(Refused::NotOpen { blob })?;
        match held.state {
            State::Durable => Ok(Verdict::Have),
            State::Sealing => Ok(Verdict::Ignore),
            State::Receiving { .. } => {
                let before = std::mem::replace(held, Held { source, state: State::Sealing });
                self.count_closed(&before);
                Ok(Verdict::Accept)
            }
        }
    }

    /// The store has the whole blob on stable storage.
    pub fn sealed(&mut self, source: SourceId, blob: BlobId) {
        if let Some(held) = self.of_source(source, blob) {
            held.state = State::Durable;
        }
    }

    /// The blob was refused, or the store could not take it: what follows of it is ignored. Answers whether an unfinished
    /// part is to be thrown away; a whole blob never is, whatever a primary sends after it.
    pub fn refuse(&mut self, source: SourceId, blob: BlobId) -> bool {
        match self.of_source(source, blob).map(|held| &held.state) {
            None | Some(State::Durable) => false,
            Some(State::Receiving { .. } | State::Sealing) => {
                self.forget(blob);
                true
            }
        }
    }

    /// A primary says that the blob's write failed. Accepted from the stream that holds the blob alone; whatever else
    /// becomes of it is for settling.
    pub fn discard(&mut self, source: SourceId, blob: BlobId) -> Verdict {
        if self.of_source(source, blob).is_none() {
            return Verdict::Ignore;
        }
        self.forget(blob);
        Verdict::Accept
    }

    /// The blob belongs to a version, or is gone: there is nothing to hold any more.
    pub fn forget(&mut self, blob: BlobId) {
        self.released.remove(&blob);
        if let Some(held) = self.held.remove(&blob) {
            self.count_closed(&held);
        }
    }

    /// The stream has ended. Answers the blobs that it left unfinished: they may go.
    pub fn close(&mut self, source: SourceId, now: Instant) -> Vec<BlobId> {
        let mut unfinished = Vec::new();
        let ended: Vec<BlobId> =
            self.held.iter().filter(|(_, held)| held.source == source).map(|(blob, _)| *blob).collect();
        for blob in ended {
            match self.held.remove(&blob).map(|held| held.state) {
                Some(State::Receiving { .. }) => unfinished.push(blob),
                // What is being sealed will be whole, and is spared like the rest.
                Some(State::Sealing | State::Durable) => {
                    self.released.insert(blob, now);
                }
                None => {}
            }
        }
        self.open_counts.remove(&source);
        unfinished
    }

    /// Whether the blob's write may still be under way at its primary.
    pub fn is_held(&self, blob: BlobId, now: Instant) -> bool {
        let spared = |released: &Instant| now.saturating_duration_since(*released) < self.grace;
        self.held.contains_key(&blob) || self.released.get(&blob).is_some_and(spared)
    }

    /// Forgets the holds that have run out.
    pub fn expire(&mut self, now: Instant) {
        let grace = self.grace;
        self.released.retain(|_, released| now.saturating_duration_since(*released) < grace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: SourceId = SourceId(1);
    const OTHER_STREAM: SourceId = SourceId(2);
    const GRACE: Duration = Duration::from_secs(60);
    const GROUP: GroupId = GroupId(3);

    fn server(name: &str) -> ServerId {
        name.parse().unwrap()
    }

    fn a_blob() -> BlobId {
        BlobId::from_bytes([9; 16])
    }

    /// Group 3 at epoch 5: a is primary, this server is b.
    fn a_group() -> Group {
        let members: std::collections::BTreeSet<ServerId> = ["a", "b", "c"].map(server).into();
        Group {
            epoch: Epoch(5),
            members: members.clone(),
            in_sync: members,
            primary: Some(server("a")),
            joiners: Default::default(),
            min_in_sync: 2,
        }
    }

    fn a_replica() -> Replica {
        Replica::new(server("b"), GRACE)
    }

    fn begin(replica: &mut Replica, source: SourceId, primary: &str, epoch: u64) -> Result<Verdict, Refused> {
        let group = a_group();
        replica.begin(source, &server(primary), a_blob(), (GROUP, Epoch(epoch)), Some(&group), Stored::Part)
    }

    #[test]
    fn begin_from_a_deposed_primary_is_refused() {
        let refused = begin(&mut a_replica(), STREAM, "c", 4);
        assert_eq!(refused, Err(Refused::StaleEpoch { group: GROUP, theirs: Epoch(4), current: Epoch(5) }));
    }

    #[test]
    fn begin_from_another_than_the_primary_is_refused() {
        let refused = begin(&mut a_replica(), STREAM, "c", 5);
        assert_eq!(refused, Err(Refused::NotThePrimary { group: GROUP, server: server("c") }));
    }

    #[test]
    fn a_primary_that_knows_a_newer_epoch_is_believed() {
        assert_eq!(begin(&mut a_replica(), STREAM, "c", 6), Ok(Verdict::Accept));
    }

    #[test]
    fn a_group_that_is_unknown_or_of_others_is_refused() {
        let strangers = Group { members: ["a", "c"].map(server).into(), ..a_group() };
        for group in [None, Some(&strangers)] {
            let refused = a_replica().begin(STREAM, &server("a"), a_blob(), (GROUP, Epoch(5)), group, Stored::Part);
            assert_eq!(refused, Err(Refused::NotAMember { group: GROUP }));
        }
    }

    #[test]
    fn chunks_come_in_order_and_the_blob_is_held_until_published() {
        let mut replica = a_replica();
        let now = Instant::now();
        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(replica.chunk(STREAM, a_blob(), 0, 10), Ok(Verdict::Accept));
        let hole = replica.chunk(STREAM, a_blob(), 11, 10);
        assert_eq!(hole, Err(Refused::OutOfOrder { blob: a_blob(), given: 11, expected: 10 }));
        assert_eq!(replica.chunk(STREAM, a_blob(), 10, 1), Ok(Verdict::Accept));
        assert_eq!(replica.seal(STREAM, a_blob()), Ok(Verdict::Accept));
        assert_eq!(replica.seal(STREAM, a_blob()), Ok(Verdict::Ignore));
        replica.sealed(STREAM, a_blob());
        assert_eq!(replica.seal(STREAM, a_blob()), Ok(Verdict::Have));
        assert!(replica.is_held(a_blob(), now + 10 * GRACE));
        replica.forget(a_blob());
        assert!(!replica.is_held(a_blob(), now));
    }

    #[test]
    fn a_blob_never_grows_past_its_limit() {
        let mut replica = a_replica();
        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(replica.chunk(STREAM, a_blob(), 0, BLOB_LENGTH_MAX), Ok(Verdict::Accept));
        assert_eq!(replica.chunk(STREAM, a_blob(), BLOB_LENGTH_MAX, 1), Err(Refused::TooLong { blob: a_blob() }));
    }

    #[test]
    fn a_blob_that_is_whole_is_claimed_and_not_written_again() {
        let mut replica = a_replica();
        let group = a_group();
        let begun = replica.begin(STREAM, &server("a"), a_blob(), (GROUP, Epoch(5)), Some(&group), Stored::Whole);
        assert_eq!(begun, Ok(Verdict::Have));
        assert_eq!(replica.chunk(STREAM, a_blob(), 0, 10), Ok(Verdict::Have));
        assert_eq!(replica.seal(STREAM, a_blob()), Ok(Verdict::Have));
    }

    #[test]
    fn a_refusal_never_costs_a_whole_blob() {
        let mut replica = a_replica();
        assert!(!replica.refuse(STREAM, a_blob()), "a blob that is not of this stream");
        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert!(replica.refuse(STREAM, a_blob()));
        assert_eq!(replica.chunk(STREAM, a_blob(), 0, 10), Ok(Verdict::Ignore));

        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(replica.seal(STREAM, a_blob()), Ok(Verdict::Accept));
        replica.sealed(STREAM, a_blob());
        assert!(!replica.refuse(STREAM, a_blob()));
        assert!(replica.is_held(a_blob(), Instant::now()));
    }

    #[test]
    fn a_stream_that_ends_leaves_unfinished_blobs_to_be_thrown_away_and_spares_the_rest() {
        let (mut replica, now) = (a_replica(), Instant::now());
        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(replica.close(STREAM, now), [a_blob()]);
        assert!(!replica.is_held(a_blob(), now));

        assert_eq!(begin(&mut replica, OTHER_STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(replica.seal(OTHER_STREAM, a_blob()), Ok(Verdict::Accept));
        assert_eq!(replica.close(OTHER_STREAM, now), []);
        assert!(replica.is_held(a_blob(), now + GRACE / 2));
        assert!(!replica.is_held(a_blob(), now + GRACE));
    }

    #[test]
    fn a_blob_belongs_to_the_newest_stream_that_began_it() {
        let mut replica = a_replica();
        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(begin(&mut replica, OTHER_STREAM, "a", 5), Ok(Verdict::Accept));
        assert_eq!(replica.chunk(STREAM, a_blob(), 0, 10), Ok(Verdict::Ignore));
        assert_eq!(replica.seal(STREAM, a_blob()), Err(Refused::NotOpen { blob: a_blob() }));
        assert_eq!(replica.discard(STREAM, a_blob()), Verdict::Ignore);
        assert_eq!(replica.close(STREAM, Instant::now()), []);
        assert_eq!(replica.chunk(OTHER_STREAM, a_blob(), 0, 10), Ok(Verdict::Accept));
        assert_eq!(replica.discard(OTHER_STREAM, a_blob()), Verdict::Accept);
    }

    #[test]
    fn what_a_primary_sends_is_not_fetched_as_well() {
        let mut replica = a_replica();
        assert_eq!(begin(&mut replica, STREAM, "a", 5), Ok(Verdict::Accept));
        assert!(!replica.begin_fetch(SourceId(7), a_blob()));
        assert_eq!(replica.discard(STREAM, a_blob()), Verdict::Accept);
        assert!(replica.begin_fetch(SourceId(7), a_blob()));
    }

    #[test]
    fn a_stream_opens_a_bounded_number_of_blobs() {
        let (mut replica, group) = (a_replica(), a_group());
        let mut open = |number: usize| {
            let blob = BlobId::from_bytes((number as u128).to_be_bytes());
            replica.begin(STREAM, &server("a"), blob, (GROUP, Epoch(5)), Some(&group), Stored::Part)
        };
        for number in 0..OPEN_BLOBS_MAX {
            assert_eq!(open(number), Ok(Verdict::Accept));
        }
        assert_eq!(open(OPEN_BLOBS_MAX), Err(Refused::TooManyOpen));
        assert_eq!(open(0), Err(Refused::TooManyOpen));
    }
}
