//! What the tests start and what they expect.

pub mod cli;
pub mod cluster;
pub mod directory;
pub mod fake_fileserver;
pub mod gate;
pub mod http;
pub mod lock;
pub mod terminal;

use std::{future::Future, time::Duration};

use dfs::status::{Failure, Reason};

/// Everything that is waited for happens well within this, or never.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub async fn within_deadline<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

/// Asks again until the answer is yes.
pub async fn wait_until<F, A>(what: &str, mut ask: F)
where
    F: FnMut() -> A,
    A: Future<Output = bool>,
{
    let asked = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_deadline(what, asked).await;
}

/// The failure of a call that must fail, for this reason.
#[track_caller]
pub fn expect_failure<T: std::fmt::Debug>(result: Result<T, tonic::Status>, reason: Reason) -> Failure {
    let failure = Failure::from(&result.expect_err("the call must fail"));
    assert_eq!(failure.reason, reason, "{failure}");
    failure
}

/// The failure of a call that must be refused for one of its fields.
#[track_caller]
pub fn expect_bad_field<T: std::fmt::Debug>(result: Result<T, tonic::Status>, field: &str) {
    let failure = Failure::from(&result.expect_err("the call must fail"));
    assert!(matches!(failure.reason, Reason::BadArgument | Reason::BadPath), "{failure}");
    assert_eq!(failure.metadata.get("field").map(String::as_str), Some(field), "{failure}");
}
