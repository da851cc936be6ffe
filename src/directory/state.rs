//! The state machine: `apply` takes one command after another and gives each the same result everywhere.
//!
//! No clock, no randomness, no I/O but the tables: time and ids come with the command. All checks of a command are made
//! before its first change, so a rejected command has changed nothing and has no revision.

use std::{path::Path as FilePath, sync::Arc};

use redb::{StorageBackend, WriteTransaction};

use crate::{
    raft::Store,
    types::{Revision, Timestamp},
};

use super::{
    blobs,
    command::{Command, Outcome},
    commit,
    copy::{self, Copy},
    departures,
    edit::{self, Move},
    error::{Error, Rejected, StorageError},
    fence, membership,
    merge::{self, Merge},
    model::Cluster,
    moves, retention,
    tables::{self, Tables},
    view::View,
    writes::{self, Asked},
};

/// The Directory's state on disk.
#[derive(Clone)]
pub struct Database {
    store: Arc<Store>,
}

/// What became of one command of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The revision that the answer reflects: the command's own if it changed anything.
    pub revision: Revision,
    pub result: Result<Outcome, Rejected>,
}

impl Database {
    /// Opens the file, or makes it. Blocking.
    pub fn open(path: &FilePath) -> Result<Self, StorageError> {
        Self::prepare(Store::open(path, None)?)
    }

    /// On anything that can hold bytes: memory, or a simulated disk.
    pub fn open_backend(backend: impl StorageBackend) -> Result<Self, StorageError> {
        Self::prepare(Store::over(redb::Database::builder().create_with_backend(backend)?))
    }

    fn prepare(store: Store) -> Result<Self, StorageError> {
        let transaction = store.begin_write()?;
        prepare(&transaction)?;
        transaction.commit()?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Everything that has been applied, and nothing of what is being applied.
    pub fn view(&self) -> Result<View, StorageError> {
        View::new(self.store.begin_read()?)
    }

    /// What the tables are in.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether the command would change anything now; nothing is changed. Blocking.
    pub fn would_change(&self, now: Timestamp, command: &Command) -> Result<bool, StorageError> {
        let transaction = self.store.begin_write()?;
        let changed = {
            let mut tables = Tables::open(&transaction)?;
            let before = tables.state.revision;
            step(&mut tables, now, command)?;
            tables.state.revision != before
        };
        transaction.abort()?;
        Ok(changed)
    }

    /// Applies the commands one after another and makes them durable together. Blocking.
    ///
    /// After an error none of them has happened, or all of them: the caller must not go on before it knows. Past the log:
    /// for what has none.
    pub fn apply(&self, now: Timestamp, commands: &[Command]) -> Result<Vec<Applied>, StorageError> {
        let transaction = self.store.begin_write()?;
        let (applied, changed) = apply_all(&transaction, now, commands)?;
        if changed {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(applied)
    }
}

/// Makes the tables where there are none, and looks whether they are of a format that is known. Blocking.
pub(super) fn prepare(transaction: &redb::WriteTransaction) -> Result<(), StorageError> {
    tables::check_format(transaction)?;
    Tables::open(transaction)?.close()
}

/// Applies batches out of the log, one after another, each at its own time.
pub(super) fn apply_batches(
    transaction: &WriteTransaction,
    batches: &[(Timestamp, Vec<Command>)],
) -> Result<Vec<Vec<Applied>>, StorageError> {
    let mut tables = Tables::open(transaction)?;
    let mut apply = |(time, commands): &(Timestamp, Vec<Command>)| {
        commands.iter().map(|command| step(&mut tables, *time, command)).collect::<Result<Vec<_>, _>>()
    };
    let applied = batches.iter().map(&mut apply).collect::<Result<Vec<_>, _>>()?;
    tables.close()?;
    Ok(applied)
}

fn apply_all(
    transaction: &WriteTransaction,
    now: Timestamp,
    commands: &[Command],
) -> Result<(Vec<Applied>, bool), StorageError> {
    let mut tables = Tables::open(transaction)?;
    let before = tables.state.revision;
    let applied = commands.iter().map(|command| step(&mut tables, now, command)).collect::<Result<Vec<_>, _>>()?;
    let changed = tables.state.revision != before;
    tables.close()?;
    Ok((applied, changed))
}

/// Applies one command at the next revision. One that changed nothing has none, and time has not moved for it.
pub(super) fn step(tables: &mut Tables, now: Timestamp, command: &Command) -> Result<Applied, StorageError> {
    let time = now.max(tables.state.time);
    let revision = Revision(tables.state.revision.0 + 1);
    let result = match apply(tables, revision, time, command) {
        Ok(Effect::Changed(outcome)) => {
            tables.state.revision = revision;
            tables.state.time = time;
            Ok(outcome)
        }
        Ok(Effect::Nothing(outcome)) => Ok(outcome),
        Err(Error::Rejected(rejected)) => Err(rejected),
        Err(Error::Storage(error)) => return Err(error),
    };
    Ok(Applied { revision: tables.state.revision, result })
}

/// What an accepted command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It has a revision now.
    Changed(Outcome),
    /// All was so already; the tables are as they were.
    Nothing(Outcome),
}

/// Applies one command at this revision and time.
fn apply(tables: &mut Tables, revision: Revision, time: Timestamp, command: &Command) -> Result<Effect, Error> {
    tables.revision = revision;
    tables.time = time;
    tables.change_count = 0;
    let Some(asked) = Asked::of(command) else { return dispatch(tables, command) };
    if let Some(outcome) = writes::recall(tables, asked)? {
        return Ok(Effect::Nothing(outcome));
    }
    let effect = dispatch(tables, command)?;
    if let Effect::Changed(outcome) = &effect {
        writes::remember(tables, asked, outcome)?;
    }
    Ok(effect)
}

fn dispatch(tables: &mut Tables, command: &Command) -> Result<Effect, Error> {
    if let Command::Bootstrap { cluster, lock_key, settings } = command {
        let (cluster, lock_key, settings) = (*cluster, *lock_key, settings.clone());
        return membership::bootstrap(tables, Cluster { cluster, lock_key, settings });
    }
    tables.cluster()?;
    match command {
        Command::Bootstrap { .. } => Ok(Effect::Nothing(Outcome::Done)),
        Command::ChangeSettings { settings } => membership::change_settings(tables, settings),
        Command::CreateDirectory { path, parents, mode, .. } => edit::create_directory(tables, path, *parents, *mode),
        Command::UpdateEntry { path, changes, .. } => edit::update(tables, path, changes),
        Command::MoveEntry { from, to, replace, from_precondition, to_precondition, .. } => {
            edit::move_entry(tables, Move { from, to, replace: *replace, from_precondition, to_precondition })
        }
        Command::CopyEntry { write_id, from, from_version, to, replace, to_precondition } => {
            let (write_id, from_version, replace) = (*write_id, *from_version, *replace);
            copy::copy_entry(tables, Copy { write_id, from, from_version, to, replace, to_precondition })
        }
        Command::DeleteEntry { path, force, precondition, .. } => edit::delete(tables, path, *force, precondition),
        Command::RestoreVersion { write_id, path, version, precondition } => {
            copy::restore_version(tables, *write_id, path, *version, precondition)
        }
        Command::CommitWrite { primary, commit } => commit::commit_write(tables, primary, commit),
        Command::MergeExtents { primary, group, epoch, inode, skip, run, merged, begin_time } => {
            let (group, epoch, inode, merged, begin_time) = (*group, *epoch, *inode, *merged, *begin_time);
            let skip = *skip;
            merge::merge_extents(tables, Merge { primary, group, epoch, inode, skip, run, merged, begin_time })
        }
        Command::SettleBlob { blob, .. } => blobs::settle(tables, *blob),
        Command::RaiseFence { path, token } => fence::raise_by_lock_service(tables, path, *token),
        Command::RegisterServer { registration } => membership::register(tables, registration),
        Command::ForgetNode { server } => membership::forget_node(tables, server),
        Command::MarkDown { server, incarnation } => membership::mark_down(tables, server, *incarnation),
        Command::MarkUp { server } => membership::mark_up(tables, server),
        Command::MarkReadOnly { server, reason } => membership::mark_read_only(tables, server, reason),
        Command::MarkWritable { server } => membership::mark_writable(tables, server),
        Command::SpreadPrimaries { limit, except } => membership::spread_primaries(tables, *limit as usize, except),
        Command::EvictReplica { primary, suspect, groups } => membership::evict(tables, primary, suspect, groups),
        Command::AddInSync { primary, group, epoch, member } => {
            membership::add_in_sync(tables, primary, *group, *epoch, member)
        }
        Command::MoveGroup { group, epoch, leaving, arriving } => {
            moves::begin(tables, *group, *epoch, leaving.as_ref(), arriving)
        }
        Command::DropArriving { group, epoch } => moves::drop_arriving(tables, *group, *epoch),
        Command::PassLead { group, epoch } => moves::pass_lead(tables, *group, *epoch),
        Command::DrainServer { server } => moves::drain(tables, server),
        Command::ResumeServer { server } => moves::resume(tables, server),
        Command::RemoveServer { server, lost } => moves::remove(tables, server, *lost),
        Command::ConfirmEmptied { server, groups } => departures::confirm_emptied(tables, server, groups),
        Command::Rebalance { begin } => moves::rebalance(tables, *begin),
        Command::ConfirmDeleted { server, blobs } => blobs::confirm_deleted(tables, server, blobs),
        Command::Collect { limit } => retention::collect(tables, *limit),
    }
}
