//! The rules that keep a committed version safe, each of which can be left out to see that it is needed.

use crate::{properties, protocol::Bounds};

/// One rule of the protocol, and where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The Directory commits at the group's present epoch and for its primary alone (`directory::commit::check_group`).
    CommitAtTheEpoch,
    /// Commits wait for a member that is about to be in sync (`in_sync::Group::required`).
    WaitForTheJoiner,
    /// A joiner that the Directory was asked about is waited for until the answer is known (`map::Map::dismiss`).
    KeepTheJoinerThatWasAsked,
    /// A joiner lists what the primary has after it began to count (`replication::catch_up`).
    CountBeforeListing,
    /// A copy is acknowledged when it is on stable storage (`replication::receiver::Receiver::seal`).
    SyncBeforeAcknowledging,
    /// A copy is thrown away when the Directory has said that nobody needs it (`fileserver::settle`).
    AskBeforeCollecting,
    /// A primary that starts again gets a new epoch (`directory::membership::register`).
    NewEpochAfterRestart,
    /// What the Directory has said is abandoned it never commits (`directory::blobs::check_new`).
    RefuseTheAbandoned,
}

impl Rule {
    pub const ALL: [Self; 8] = [
        Self::CommitAtTheEpoch,
        Self::WaitForTheJoiner,
        Self::KeepTheJoinerThatWasAsked,
        Self::CountBeforeListing,
        Self::SyncBeforeAcknowledging,
        Self::AskBeforeCollecting,
        Self::NewEpochAfterRestart,
        Self::RefuseTheAbandoned,
    ];

    /// The property that breaks when the rule is left out.
    pub fn what_fails_without(self) -> &'static str {
        match self {
            Self::CommitAtTheEpoch => properties::ONLY_THE_PRIMARY_COMMITS,
            Self::AskBeforeCollecting => properties::NOTHING_NEEDED_IS_COLLECTED,
            Self::WaitForTheJoiner
            | Self::KeepTheJoinerThatWasAsked
            | Self::CountBeforeListing
            | Self::SyncBeforeAcknowledging
            | Self::NewEpochAfterRestart
            | Self::RefuseTheAbandoned => properties::COMMITTED_IS_DURABLE,
        }
    }

    /// What is enough to see that.
    pub fn shown_by(self) -> Bounds {
        Bounds { blobs: 1, epochs: 3, claims: 1, crashes: 1, page_cache: self == Self::SyncBeforeAcknowledging }
    }
}
