//! How things stand, out of the state and what servers say about themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{LEADS_MAX, ServerFacts, Situation, Standing};
use crate::{
    directory::{command::ServerKind, error::StorageError, lease::Stats, model::ServerRecord, view::View},
    types::{ServerId, Timestamp},
};

/// A server that something is arriving at is waited for so long when it goes down, or for `repair_after` if that is less.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(60);

/// When servers that are down are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub now: Timestamp,
    pub repair_after_ms: u64,
    /// How long this leader has led: for so long a server is down of which nobody noted since when.
    pub led_ms: u64,
    /// Nobody is given up yet for having been down: who could not be heard was perhaps the Directory.
    pub waits: bool,
}

impl Patience {
    fn standing(&self, record: &ServerRecord) -> Standing {
        let silent_ms = record.down_since.map_or(self.led_ms, |since| self.now.millis_since(since));
        let arrival_patience_ms = self.repair_after_ms.min(ARRIVAL_PATIENCE.as_millis() as u64);
        match record {
            ServerRecord { lost: true, .. } => Standing::GivenUp,
            ServerRecord { down: true, .. } if self.waits => Standing::Down,
            ServerRecord { down: true, .. } if silent_ms >= self.repair_after_ms => Standing::GivenUp,
            ServerRecord { down: true, .. } if silent_ms >= arrival_patience_ms => Standing::Away,
            ServerRecord { down: true, .. } => Standing::Down,
            ServerRecord { read_only_reason, .. } if !read_only_reason.is_empty() => self.of_read_only(record),
            ServerRecord { draining: true, .. } => Standing::Draining,
            ServerRecord { .. } => Standing::Fit,
        }
    }

    fn of_read_only(&self, record: &ServerRecord) -> Standing {
        let read_only_ms = record.read_only_since.map_or(self.led_ms, |since| self.now.millis_since(since));
        if !self.waits && read_only_ms >= self.repair_after_ms { Standing::Refusing } else { Standing::ReadOnly }
    }
}

impl Situation {
    /// `stats`: what a server last said about itself.
    pub fn of(view: &View, patience: Patience, stats: &BTreeMap<ServerId, Stats>) -> Result<Self, StorageError> {
        let records = view.servers()?;
        let is_up = |record: &&ServerRecord| record.registration.kind == ServerKind::FileServer && !record.down;
        let up = records.iter().filter(is_up).filter_map(|record| stats.get(&record.registration.server));
        let uploading = up.flat_map(|stats| stats.uploading.iter().copied()).collect();
        let servers =
            records.into_iter().filter(|record| record.registration.kind == ServerKind::FileServer).map(|record| {
                let said = stats.get(&record.registration.server);
                let free = |stats: &Stats| {
                    (stats.disk_total_bytes > 0).then(|| stats.disk_total_bytes.saturating_sub(stats.disk_used_bytes))
                };
                let facts = ServerFacts {
                    standing: patience.standing(&record),
                    draining: record.draining,
                    zone: record.registration.zone,
                    free_bytes: said.and_then(free),
                    stored_bytes: said.map_or(0, |stats| stats.stored_bytes),
                    is_heard: said.is_some(),
                };
                (record.registration.server, facts)
            });
        Ok(Self {
            servers: servers.collect(),
            groups: view.groups()?,
            departures: view.departures()?,
            copies: view.settings().map_or(0, |settings| settings.copies as usize),
            min_in_sync: view.settings().map_or(0, |settings| settings.min_in_sync as usize),
            uploading,
            leads_to_pass: LEADS_MAX,
            shunned: BTreeSet::new(),
        })
    }
}
