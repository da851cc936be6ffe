//! What stands in the log: the beginning of a lead, and what a leader's decisions have made of the tables.
//!
//! The leader decides in memory and proposes the rows that come of it; whoever applies them decides nothing. An entry names
//! the lead that it belongs to, so that one that was held up, and comes when another lead has begun, changes nothing.

use bytes::Bytes;
use prost::Message;

use crate::{
    lock::tables::{Row, StorageError},
    pb::storage::lock as stored,
    types::LeadId,
};

/// Rows of one entry, in bytes: it travels in one message, with others.
const ENTRY_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Only this lead's decisions count from now on.
    Begin { lead: LeadId },
    /// `continued`: they count together with those of the next entry.
    Rows { lead: LeadId, rows: Vec<Row>, continued: bool },
}

impl Entry {
    pub fn encode(&self) -> Bytes {
        use stored::entry::What;
        let (lead, what) = match self {
            Self::Begin { lead } => (lead, What::Begin(stored::Begin {})),
            Self::Rows { lead, rows, continued } => {
                let rows = rows.iter().map(|row| stored::Row {
                    table: row.table.into(),
                    key: row.key.clone().into(),
                    value: row.value.clone().map(Bytes::from),
                });
                (lead, What::Rows(stored::Rows { rows: rows.collect(), continued: *continued }))
            }
        };
        stored::Entry { lead_id: lead.as_bytes().to_vec().into(), what: Some(what) }.encode_to_vec().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        use stored::entry::What;
        let entry = stored::Entry::decode(bytes).map_err(|_| StorageError::BadEntry("it is no entry"))?;
        let lead = LeadId::from_bytes(id(&entry.lead_id)?);
        match entry.what {
            Some(What::Begin(stored::Begin {})) => Ok(Self::Begin { lead }),
            Some(What::Rows(stored::Rows { rows, continued })) => {
                let rows = rows.into_iter().map(row).collect::<Result<_, _>>()?;
                Ok(Self::Rows { lead, rows, continued })
            }
            None => Err(StorageError::BadEntry("it says nothing")),
        }
    }

    /// As many entries as the rows need, to be proposed in this order.
    pub fn of_rows(lead: LeadId, rows: Vec<Row>) -> Vec<Self> {
        let (mut entries, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            let length = row.key.len() + row.value.as_ref().map_or(0, Vec::len);
            if bytes + length > ENTRY_BYTES_MAX && !part.is_empty() {
                entries.push(Self::Rows { lead, rows: std::mem::take(&mut part), continued: true });
                bytes = 0;
            }
            bytes += length;
            part.push(row);
        }
        entries.push(Self::Rows { lead, rows: part, continued: false });
        entries
    }
}

fn row(row: stored::Row) -> Result<Row, StorageError> {
    let table = match stored::Table::try_from(row.table) {
        Ok(table) if table != stored::Table::Unspecified => table,
        _ => return Err(StorageError::BadEntry("it has a row of a table that is not known here")),
    };
    Ok(Row { table, key: row.key.to_vec(), value: row.value.map(|value| value.to_vec()) })
}

fn id(bytes: &[u8]) -> Result<[u8; 16], StorageError> {
    bytes.try_into().map_err(|_| StorageError::BadEntry("an id has another length"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_row(key: u8, value: Option<usize>) -> Row {
        Row { table: stored::Table::Holders, key: vec![key], value: value.map(|length| vec![key; length]) }
    }

    #[test]
    fn every_kind_of_entry_comes_back_as_it_was() {
        let lead = LeadId::random();
        for entry in [
            Entry::Begin { lead },
            Entry::Rows { lead, rows: vec![a_row(1, Some(3)), a_row(2, None), a_row(3, Some(0))], continued: true },
            Entry::Rows { lead, rows: vec![], continued: false },
        ] {
            assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let lead_id: Bytes = LeadId::random().as_bytes().to_vec().into();
        let of_table = |table| {
            let rows = vec![stored::Row { table, ..Default::default() }];
            stored::entry::What::Rows(stored::Rows { rows, continued: false })
        };
        for (lead_id, what) in [
            (Bytes::new(), Some(of_table(1))),
            (lead_id.clone(), None),
            (lead_id.clone(), Some(of_table(0))),
            (lead_id, Some(of_table(77))),
        ] {
            assert!(Entry::decode(&stored::Entry { lead_id, what }.encode_to_vec()).is_err());
        }
        assert!(Entry::decode(&[0xff]).is_err());
    }

    #[test]
    fn what_one_entry_has_no_room_for_is_continued() {
        let half = Some(ENTRY_BYTES_MAX / 2);
        let rows = vec![a_row(1, half), a_row(2, None), a_row(3, half), a_row(4, half)];
        let entries = Entry::of_rows(LeadId::random(), rows.clone());
        let parts: Vec<(Vec<Row>, bool)> = entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Rows { rows, continued, .. } => (rows, continued),
                Entry::Begin { .. } => panic!("rows only"),
            })
            .collect();
        assert_eq!(parts.iter().map(|(_, continued)| *continued).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(parts.into_iter().flat_map(|(rows, _)| rows).collect::<Vec<_>>(), rows);
    }

    proptest! {
        #[test]
        fn an_entry_that_is_nearly_right_is_one_or_an_error(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            any_bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let rows = vec![a_row(1, Some(3)), a_row(2, None)];
            let mut garbled = Entry::Rows { lead: LeadId::random(), rows, continued: true }.encode().to_vec();
            for (at, byte) in &edits {
                let at = at.index(garbled.len());
                garbled[at] ^= byte;
            }
            for bytes in [garbled, any_bytes] {
                if let Ok(entry) = Entry::decode(&bytes) {
                    prop_assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
                }
            }
        }
    }
}
