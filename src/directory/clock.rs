//! The one place where the Directory asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// By the system's clock; a clock before 1970 counts as 1970.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
