//! Looks at the state, off the threads that serve the network.
//!
//! A look sees everything that was acknowledged before it began: commands are in the tables of the leader before they are
//! answered, and a look begins by making sure that this node still is the leader, by the lease that its followers keep.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    command::Command,
    error::{Error, Rejected},
    model::Counts,
    state::Database,
    view::View,
};
use crate::{
    raft::{self, Group},
    types::Timestamp,
};

/// Looks at the same time; more would only wait for each other's disk and processor.
const LOOKS_MAX: usize = 64;
/// How long a look waits for its turn.
const QUEUE_DEADLINE: Duration = Duration::from_secs(2);

/// Why a look has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("the Directory has more to do than it can")]
    Overloaded,
    /// Logged where it happened.
    #[error("the Directory cannot read its tables")]
    Broken,
    #[error(transparent)]
    Group(#[from] raft::Error),
}

#[derive(Clone)]
pub struct Reader {
    database: Arc<Database>,
    group: Arc<Group>,
    turns: Arc<Semaphore>,
}

impl Reader {
    pub fn new(database: Arc<Database>, group: Arc<Group>) -> Self {
        Self { database, group, turns: Arc::new(Semaphore::new(LOOKS_MAX)) }
    }

    /// Runs `look` on the newest acknowledged state.
    pub async fn read<T, F>(&self, look: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&View) -> Result<T, Error> + Send + 'static,
    {
        self.group.confirm_lead().await?;
        self.look(move |database| look(&database.view()?)).await
    }

    /// How much there is of everything, as far as this node has applied it. Blocks on the disk.
    pub fn glance(&self) -> Result<Counts, Error> {
        Ok(self.database.view()?.counts()?)
    }

    /// Whether a command would change anything: then it is worth an entry in the log.
    pub async fn would_change(&self, now: Timestamp, command: Command) -> Result<bool, ReadError> {
        self.look(move |database| Ok(database.would_change(now, &command)?)).await
    }

    async fn look<T, F>(&self, look: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    {
        let turn = tokio::time::timeout(QUEUE_DEADLINE, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(ReadError::Overloaded) };
        let database = self.database.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            look(&database)
        });
        match looked.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Error::Rejected(rejected))) => Err(ReadError::Rejected(rejected)),
            Ok(Err(Error::Storage(error))) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the tables cannot be read");
                Err(ReadError::Broken)
            }
            Err(error) => {
                tracing::error!(%error, "a look at the tables did not end");
                Err(ReadError::Broken)
            }
        }
    }
}
