//! The change feed: what happened to the namespace, in the order in which it happened, and when.

use crate::types::{Path, Revision, Timestamp};

use super::{
    error::{Error, Rejected, StorageError},
    model::{Change, ChangeKind, ChangeRecord, Changes, EntryKind},
    namespace,
    tables::{self, read_stored},
    view::View,
};

/// How many changes are looked through at once for those that match.
const CHANGES_SCANNED_MAX: usize = 10_000;

impl View {
    /// The changes of `path` and below it after a revision: about `limit` of them, of whole revisions.
    ///
    /// What happens to a directory above happens to the path too: its moves and deletions are among them.
    /// Reasons: `TooLongAgo`, `NotYet`.
    pub fn changes(&self, after: Revision, path: &Path, limit: usize) -> Result<Changes, Error> {
        let newest = self.state.revision;
        if after > newest {
            return Err(Rejected::NotYet { revision: after, newest }.into());
        }
        if after < self.state.horizon {
            return Err(Rejected::TooLongAgo { oldest: self.state.horizon }.into());
        }
        let rows = read_stored::<(u64, u32), ChangeRecord>(&self.transaction, &tables::CHANGES)?;
        let mut changes: Vec<Change> = Vec::new();
        let mut through = after;
        for (scanned, row) in rows.table.range((namespace::after(after), 0)..)?.enumerate() {
            let (key, bytes) = row?;
            let revision = Revision(key.value().0);
            if revision > through && (changes.len() >= limit || scanned >= CHANGES_SCANNED_MAX) {
                return Ok(Changes { changes, through, more: true });
            }
            through = revision;
            let change = rows.decode(key.value(), bytes.value())?.change;
            if concerns(&change, path) {
                changes.push(change);
            }
        }
        Ok(Changes { changes, through: newest, more: false })
    }

    /// The newest revision of that time, which must lie within the kept past: found by halving.
    pub(super) fn revision_at(&self, time: Timestamp) -> Result<Revision, StorageError> {
        let rows = read_stored::<(u64, u32), ChangeRecord>(&self.transaction, &tables::CHANGES)?;
        // The first change from a revision on, if it is later than `time`.
        let later = |from: u64| -> Result<Option<Revision>, StorageError> {
            let Some((key, bytes)) = rows.table.range((from, 0)..)?.next().transpose()? else {
                return Ok(Some(Revision(namespace::after(self.state.revision))));
            };
            let change = rows.decode(key.value(), bytes.value())?.change;
            Ok((change.time > time).then_some(change.revision))
        };
        // Changes up to `low` are not later; the first from `high` on is `first_later`.
        let (mut low, mut high) = (self.state.horizon.0, namespace::after(self.state.revision));
        let mut first_later = Revision(high);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match later(middle)? {
                Some(revision) => (high, first_later) = (middle, revision),
                None => low = middle,
            }
        }
        Ok(Revision(first_later.0.saturating_sub(1)))
    }
}

/// Whether a change is one of `path`, of something below it, or takes the path away from above.
fn concerns(change: &Change, path: &Path) -> bool {
    let takes_all_below =
        change.entry_kind == EntryKind::Directory && matches!(change.kind, ChangeKind::Moved | ChangeKind::Deleted);
    let concerned = |of: &Path| of.is_at_or_below(path) || takes_all_below && path.is_at_or_below(of);
    concerned(&change.path) || change.from_path.as_ref().is_some_and(concerned)
}
