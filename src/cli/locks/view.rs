//! Locks as they are printed.

use std::time::Duration;

use serde::Serialize;

use crate::{
    cli::{
        output::{Details, Row, as_rfc3339},
        table::{self, Column},
    },
    client::{LockGuard, LockInfo, LockMode},
};

fn mode_text(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Exclusive => "exclusive",
        LockMode::Shared => "shared",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
    path: String,
    mode: &'static str,
    fencing_token: u64,
    session: String,
    ttl_ms: u64,
    #[serde(serialize_with = "as_rfc3339")]
    grant_time: u64,
}

impl From<&LockGuard> for GrantView {
    fn from(guard: &LockGuard) -> Self {
        Self {
            path: guard.path().to_string(),
            mode: mode_text(guard.mode()),
            fencing_token: guard.token().0,
            session: guard.session().id().to_string(),
            ttl_ms: millis(guard.session().ttl()),
            grant_time: guard.grant_time().0,
        }
    }
}

impl Details for GrantView {
    fn lines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("path", self.path.clone()),
            ("mode", self.mode.to_owned()),
            ("token", self.fencing_token.to_string()),
            ("session", self.session.clone()),
            ("lease", table::age(self.ttl_ms)),
        ]
    }

    fn name(&self) -> String {
        self.fencing_token.to_string()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenView {
    pub path: String,
    /// What the broken holders are now older than.
    pub fencing_token: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockView {
    path: String,
    /// All of them; `holders` and `waiters` may list only the first.
    holder_count: u32,
    waiter_count: u32,
    holders: Vec<HolderView>,
    waiters: Vec<WaiterView>,
    pub pending_fence: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HolderView {
    client: String,
    session: String,
    mode: &'static str,
    fencing_token: u64,
    #[serde(serialize_with = "as_rfc3339")]
    grant_time: u64,
    held_ms: u64,
    lease_remaining_ms: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WaiterView {
    position: u32,
    client: String,
    session: String,
    mode: &'static str,
    waiting_ms: u64,
}

impl From<LockInfo> for LockView {
    fn from(lock: LockInfo) -> Self {
        let holders = lock.holders.into_iter().map(|holder| HolderView {
            client: holder.client,
            session: holder.session.to_string(),
            mode: mode_text(holder.mode),
            fencing_token: holder.token.0,
            grant_time: holder.grant_time.0,
            held_ms: millis(holder.held),
            lease_remaining_ms: millis(holder.lease_remaining),
        });
        let waiters = lock.waiters.into_iter().map(|waiter| WaiterView {
            position: waiter.position,
            client: waiter.client,
            session: waiter.session.to_string(),
            mode: mode_text(waiter.mode),
            waiting_ms: millis(waiter.waiting),
        });
        Self {
            path: lock.path.to_string(),
            holder_count: lock.holder_count,
            waiter_count: lock.waiter_count,
            holders: holders.collect(),
            waiters: waiters.collect(),
            pending_fence: lock.pending_fence.map(|token| token.0),
        }
    }
}

impl LockView {
    pub fn is_free(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }

    /// For one line of a feed.
    pub fn sentence(&self) -> String {
        let holders: Vec<_> =
            self.holders.iter().map(|holder| format!("{} (token {})", holder.client, holder.fencing_token)).collect();
        let held = match holders.as_slice() {
            [] if self.pending_fence.is_some() => format!("{} is passing on", self.path),
            [] => format!("{} is free", self.path),
            holders => format!("{} is held by {}", self.path, holders.join(", ")),
        };
        if self.waiter_count == 0 { held } else { format!("{held}; {} waiting", self.waiter_count) }
    }
}

impl Row for LockView {
    const COLUMNS: &'static [Column] = &[
        Column::left("PATH"),
        Column::left("MODE"),
        Column::left("HOLDER"),
        Column::right("TOKEN"),
        Column::right("HELD"),
        Column::right("LEASE"),
        Column::right("WAITING"),
    ];

    fn cells(&self) -> Vec<String> {
        let first = self.holders.first();
        let holder = match (first, self.holder_count) {
            (None, _) => "-".to_owned(),
            (Some(holder), 1) => holder.client.clone(),
            (Some(holder), count) => format!("{} and {} more", holder.client, count.saturating_sub(1)),
        };
        let of_first = |text: fn(&HolderView) -> String| first.map_or("-".to_owned(), text);
        vec![
            self.path.clone(),
            of_first(|holder| holder.mode.to_owned()),
            holder,
            of_first(|holder| holder.fencing_token.to_string()),
            of_first(|holder| table::age(holder.held_ms)),
            of_first(|holder| table::age(holder.lease_remaining_ms)),
            self.waiter_count.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}

/// A holder or a waiting client of one lock.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LockLine {
    role: String,
    mode: &'static str,
    client: String,
    age_ms: u64,
    lease_remaining_ms: Option<u64>,
    fencing_token: Option<u64>,
    session: String,
}

impl LockLine {
    pub fn of(lock: &LockView) -> Vec<Self> {
        let holders = lock.holders.iter().map(|holder| Self {
            role: "holds".to_owned(),
            mode: holder.mode,
            client: holder.client.clone(),
            age_ms: holder.held_ms,
            lease_remaining_ms: Some(holder.lease_remaining_ms),
            fencing_token: Some(holder.fencing_token),
            session: holder.session.clone(),
        });
        let waiters = lock.waiters.iter().map(|waiter| Self {
            role: format!("waits at {}", waiter.position),
            mode: waiter.mode,
            client: waiter.client.clone(),
            age_ms: waiter.waiting_ms,
            lease_remaining_ms: None,
            fencing_token: None,
            session: waiter.session.clone(),
        });
        holders.chain(waiters).collect()
    }
}

impl Row for LockLine {
    const COLUMNS: &'static [Column] = &[
        Column::left("ROLE"),
        Column::left("MODE"),
        Column::left("CLIENT"),
        Column::right("SINCE"),
        Column::right("LEASE"),
        Column::right("TOKEN"),
        Column::left("SESSION").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.role.clone(),
            self.mode.to_owned(),
            table::or_dash(&self.client),
            table::age(self.age_ms),
            self.lease_remaining_ms.map_or("-".to_owned(), table::age),
            self.fencing_token.map_or("-".to_owned(), |token| token.to_string()),
            self.session.clone(),
        ]
    }

    fn name(&self) -> String {
        self.session.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::output::{Format, tests::printed},
        client::{LockHolder, LockWaiter},
        types::{FencingToken, SessionId, Timestamp},
    };

    fn a_lock() -> LockInfo {
        LockInfo {
            path: "/a".parse().unwrap(),
            holder_count: 1,
            waiter_count: 1,
            holders: vec![LockHolder {
                session: SessionId::from_bytes([1; 16]),
                client: "ann".to_owned(),
                mode: LockMode::Exclusive,
                token: FencingToken(77),
                grant_time: Timestamp(1_000),
                held: Duration::from_secs(65),
                lease_remaining: Duration::from_millis(9_500),
            }],
            waiters: vec![LockWaiter {
                session: SessionId::from_bytes([2; 16]),
                client: "bob".to_owned(),
                mode: LockMode::Exclusive,
                position: 1,
                waiting: Duration::from_secs(3),
            }],
            pending_fence: None,
        }
    }

    #[test]
    fn a_lock_lists_its_holder_and_its_queue() {
        let lock = LockView::from(a_lock());
        let (out, _) = printed(Format::Table, |output| output.all(LockLine::of(&lock)).unwrap());
        assert_eq!(
            out,
            "ROLE        MODE       CLIENT  SINCE  LEASE  TOKEN\n\
             holds       exclusive  ann     1m05s     9s     77\n\
             waits at 1  exclusive  bob        3s      -      -\n"
        );
        assert_eq!(lock.sentence(), "/a is held by ann (token 77); 1 waiting");
    }

    #[test]
    fn a_lock_in_json_has_plain_numbers() {
        let value = serde_json::to_value(LockView::from(a_lock())).unwrap();
        assert_eq!(value["holders"][0]["fencingToken"], 77);
        assert_eq!(value["holders"][0]["leaseRemainingMs"], 9_500);
        assert_eq!(value["waiters"][0]["position"], 1);
        assert_eq!(value["pendingFence"], serde_json::Value::Null);
    }

    #[test]
    fn a_free_lock_says_so() {
        let free = LockView::from(LockInfo {
            holder_count: 0,
            waiter_count: 0,
            holders: Vec::new(),
            waiters: Vec::new(),
            ..a_lock()
        });
        assert!(free.is_free());
        assert_eq!(free.sentence(), "/a is free");
    }
}
