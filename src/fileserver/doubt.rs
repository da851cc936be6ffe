//! In which groups this server may lack blobs that it acknowledged, without knowing which.
//!
//! When a stretch of the log cannot be read any more, nobody can say what was in it before the group's blobs have been
//! compared with another member's. Until then this server is no measure for others: it takes nobody into the group, and
//! says so to whoever asks it for a list.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::store::Store;
use crate::types::GroupId;

pub struct Doubt {
    store: Store,
    /// How many losses had been found when the group was compared last.
    compared: Mutex<BTreeMap<GroupId, u64>>,
}

impl Doubt {
    pub fn new(store: Store) -> Self {
        Self { store, compared: Mutex::default() }
    }

    pub fn concerns(&self, group: GroupId) -> bool {
        let compared = self.compared.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.losses_found() > compared.get(&group).copied().unwrap_or_default()
    }

    /// The group was compared when `found` losses had been found.
    pub fn settle(&self, group: GroupId, found: u64) {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner).insert(group, found);
    }
}
