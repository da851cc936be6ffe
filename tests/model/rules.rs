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
    /// A primary has the copies of its own write thrown away only if every commit it asked for was answered
    /// (`write::finish::Finish::uncertain`).
    AwaitAnswersBeforeDiscarding,
    /// Every change of a configuration raises its epoch (`directory::group::next_epoch`).
    NewEpochAtEachChange,
    /// A primary that starts again gets a new epoch (`directory::membership::register`).
    NewEpochAfterRestart,
    /// So do the groups that a member out of sync belongs to when its store takes writes again
    /// (`directory::membership::mark_writable`).
    NewEpochForTheWritable,
    /// What the Directory has said is abandoned it never commits (`directory::blobs::check_new`).
    RefuseTheAbandoned,
    /// Nobody leaves an in-sync set that cannot spare them (`directory::group::leave`).
    KeepTheMinimum,
    /// Only a member in sync becomes primary (`directory::group::elect`).
    LeadFromTheSet,
}

impl Rule {
    pub const ALL: [Self; 13] = [
        Self::CommitAtTheEpoch,
        Self::WaitForTheJoiner,
        Self::KeepTheJoinerThatWasAsked,
        Self::CountBeforeListing,
        Self::SyncBeforeAcknowledging,
        Self::AskBeforeCollecting,
        Self::AwaitAnswersBeforeDiscarding,
        Self::NewEpochAtEachChange,
        Self::NewEpochAfterRestart,
        Self::NewEpochForTheWritable,
        Self::RefuseTheAbandoned,
        Self::KeepTheMinimum,
        Self::LeadFromTheSet,
    ];

    /// The property that breaks when the rule is left out.
    pub fn what_fails_without(self) -> &'static str {
        match self {
            Self::CommitAtTheEpoch
            | Self::WaitForTheJoiner
            | Self::KeepTheJoinerThatWasAsked
            | Self::CountBeforeListing
            | Self::SyncBeforeAcknowledging
            | Self::AskBeforeCollecting
            | Self::AwaitAnswersBeforeDiscarding
            | Self::NewEpochAfterRestart
            | Self::NewEpochForTheWritable
            | Self::RefuseTheAbandoned => properties::COMMITTED_IS_DURABLE,
            Self::NewEpochAtEachChange => properties::LED_ALONE,
            Self::KeepTheMinimum => properties::MINIMUM_IS_KEPT,
            Self::LeadFromTheSet => properties::PRIMARY_IS_IN_SYNC,
        }
    }

    /// What is enough to see that.
    pub fn shown_by(self) -> Bounds {
        Bounds {
            blobs: 1,
            epochs: 3,
            claims: 1,
            crashes: u8::from(matches!(self, Self::SyncBeforeAcknowledging | Self::NewEpochAfterRestart)),
            page_cache: self == Self::SyncBeforeAcknowledging,
            full_disks: self == Self::NewEpochForTheWritable,
        }
    }
}
