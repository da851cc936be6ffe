//! What the clients do while faults happen: replace files of their own, queue for files that all want, append to logs,
//! and read.

use std::{sync::Arc, time::Duration};

use dfs::{
    check::history::{Condition, Data, Moment, Operation, Outcome},
    client::{Client, Entry, Error, Options, ReadOptions, Receipt, SessionOptions, WriteOptions},
    status::Reason,
    types::{AsOf, LockMode, Path, Precondition, Version},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use crate::{history::History, payload::Payload, recording};

pub const SHARED_FILES: u64 = 4;
pub const LOGS: u64 = 2;
const LENGTH_MAX: usize = 96 << 10;
/// Longer than any outage of a single process here.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(5);

/// A number of the environment, with which a run is made longer, or tried again.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// What is promised of one machine that fails: nobody is acknowledged for no longer than this.
pub const PAUSE_MAX: Duration = Duration::from_secs(3);

/// One client of the workload, with a connection and a random sequence of its own.
pub struct Worker {
    number: u64,
    client: Client,
    history: Arc<History>,
    random: StdRng,
    sequence: u64,
}

pub async fn connect(directory: &str) -> Result<Client, Error> {
    let mut options = Options::new(directory.split(','));
    options.timeout = CLIENT_TIMEOUT;
    Client::connect(options).await
}

/// Every file that workers write whole.
pub fn own_file(number: u64) -> Path {
    a_path(&format!("/own/{number}"))
}

pub fn shared_file(number: u64) -> Path {
    a_path(&format!("/shared/{number}"))
}

pub fn log_file(number: u64) -> Path {
    a_path(&format!("/log/{number}"))
}

fn a_path(text: &str) -> Path {
    text.parse().expect("a good path")
}

impl Worker {
    pub async fn connect(number: u64, seed: u64, directory: &str, history: Arc<History>) -> Result<Self, Error> {
        let random = StdRng::seed_from_u64(seed.wrapping_add(number));
        Ok(Self { number, client: connect(directory).await?, history, random, sequence: 0 })
    }

    /// Writes until told to stop. Failures for want of a server are part of the game; any other is a defect.
    pub async fn write(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.sequence += 1;
            let result = match self.random.random_range(0..4) {
                0 | 1 => self.replace_own().await,
                2 => self.replace_shared().await,
                _ => self.append_line().await,
            };
            if let Err(error) = result {
                expect_passing(&error);
                self.history.unknown();
            }
        }
    }

    /// Reads random files until told to stop, and fails at the first that is not whole, or older than what was known.
    pub async fn read(mut self, workers: u64, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let path = match self.random.random_range(0..2) {
                0 => own_file(self.random.random_range(0..workers)),
                _ => shared_file(self.random.random_range(0..SHARED_FILES)),
            };
            let known = self.history.newest(&path);
            let invoked = self.history.recording.now();
            match read_newest(&self.client, &path).await {
                Ok((entry, bytes)) => {
                    self.record(&path, invoked, Operation::Read, recording::found(&entry, &bytes));
                    let (version, payload) = (entry.version, Payload::parse(&bytes));
                    assert!(payload.is_ok(), "{path} version {version} is torn: {payload:?}");
                    self.history.read_whole(&path, version, known);
                }
                Err(error) if error.reason() == Reason::EntryNotFound => {
                    self.record(&path, invoked, Operation::Read, Outcome::Absent);
                    self.history.not_found(&path, known);
                    tokio::task::yield_now().await;
                }
                Err(error) => expect_passing(&error),
            }
        }
    }

    async fn replace_own(&mut self) -> Result<(), Error> {
        let path = own_file(self.number);
        let known = self.history.newest(&path);
        let version = match self.client.get(&path, AsOf::Now).await {
            Ok(entry) => {
                self.history.seen(&path, entry.version, known);
                entry.version
            }
            Err(error) if error.reason() == Reason::EntryNotFound => {
                self.history.not_found(&path, known);
                Version(0)
            }
            Err(error) => return Err(error),
        };
        let precondition = Precondition { if_version: Some(version), fencing_token: None };
        self.replace(&path, precondition).await
    }

    async fn replace_shared(&mut self) -> Result<(), Error> {
        let path = shared_file(self.random.random_range(0..SHARED_FILES));
        let options = SessionOptions { ttl: LEASE, client: format!("worker {}", self.number) };
        let session = self.client.open_session(options).await?;
        let invoked = self.history.recording.now();
        let guard = session.acquire(&path, LockMode::Exclusive, Some(CLIENT_TIMEOUT), |_| {}).await?;
        let token = guard.token();
        self.record(&path, invoked, Operation::Acquire { shared: false }, Outcome::Granted { token });
        let precondition = guard.precondition()?;
        self.history.recording.record_hold(self.number, &path, token);
        let written = self.replace(&path, precondition).await;
        if written.as_ref().is_err_and(Error::may_have_taken_effect) {
            // Dropped: the lease runs out, and that fences what may still be under way. A release would not.
            return written;
        }
        if session.check().is_ok() {
            self.history.recording.record_hold(self.number, &path, token);
        }
        let invoked = self.history.recording.now();
        let released = guard.release().await;
        let outcome = released.as_ref().map_or_else(recording::failed, |()| Outcome::Done);
        self.record(&path, invoked, Operation::Release { token }, outcome);
        released?;
        session.close().await?;
        written
    }

    async fn replace(&mut self, path: &Path, precondition: Precondition) -> Result<(), Error> {
        let length = self.random.random_range(0..LENGTH_MAX);
        let payload = Payload::new(self.number, self.sequence, length);
        let mut options = WriteOptions::replace(precondition);
        options.create_parents = true;
        let bytes = payload.bytes();
        let operation =
            Operation::Replace { data: recording::digest(&bytes), condition: recording::condition(&precondition) };
        let receipt = self.write_bytes(path, options, bytes, operation).await?;
        assert!(receipt.servers.len() >= 2, "{path} was acknowledged with the copies {:?}", receipt.servers);
        assert_eq!(receipt.size, payload.length as u64, "the receipt of {path}");
        self.history.acknowledged(path, receipt.version, payload);
        Ok(())
    }

    async fn append_line(&mut self) -> Result<(), Error> {
        let path = log_file(self.random.random_range(0..LOGS));
        let line = format!("worker {} line {}\n", self.number, self.sequence);
        let mut options = WriteOptions::append();
        options.create_parents = true;
        let operation = Operation::Append { data: Data::Text { text: line.clone() }, condition: Condition::default() };
        let receipt = self.write_bytes(&path, options, line.clone().into_bytes(), operation).await?;
        self.history.appended(&path, receipt.version, self.number, line);
        Ok(())
    }

    async fn write_bytes(
        &self,
        path: &Path,
        options: WriteOptions,
        bytes: Vec<u8>,
        operation: Operation,
    ) -> Result<Receipt, Error> {
        let invoked = self.history.recording.now();
        let written = self.client.write_bytes(path, options, bytes).await;
        self.record(path, invoked, operation, recording::written(&written));
        written
    }

    fn record(&self, path: &Path, invoked: Moment, operation: Operation, outcome: Outcome) {
        self.history.recording.record(self.number, path, invoked, operation, outcome);
    }
}

/// The newest version and its bytes.
pub async fn read_newest(client: &Client, path: &Path) -> Result<(Entry, Vec<u8>), Error> {
    let reader = client.read(path, ReadOptions::default()).await?;
    let entry = reader.entry().clone();
    Ok((entry, reader.bytes(READ_LIMIT).await?.to_vec()))
}

pub async fn read_version(client: &Client, path: &Path, version: Version) -> Result<Vec<u8>, Error> {
    let options = ReadOptions { version: Some(version), ..ReadOptions::default() };
    Ok(client.read(path, options).await?.bytes(READ_LIMIT).await?.to_vec())
}

const READ_LIMIT: u64 = 64 << 20;

/// While processes die, a client may hear that a server is away, or that its lock or version has passed on. It must not
/// hear anything else: no damage, no bad argument, no missing entry.
fn expect_passing(error: &Error) {
    let passing = matches!(
        error.reason(),
        Reason::Unavailable
            | Reason::DeadlineExceeded
            | Reason::NotLeader
            | Reason::NotEnoughReplicas
            | Reason::NoLiveReplica
            | Reason::StaleEpoch
            | Reason::VersionMismatch
            | Reason::FencingTokenStale
            | Reason::SessionExpired
            | Reason::SessionNotFound
            | Reason::NotLockHolder
            | Reason::LockHeld
            | Reason::WriteExpired
    );
    assert!(passing, "a client was told: {error}");
}
