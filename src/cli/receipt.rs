//! What an acknowledged write can be held to, as it is printed.

use serde::Serialize;

use super::{
    output::{as_hex, as_rfc3339},
    table,
};
use crate::client::{Entry, Receipt};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptView {
    pub path: String,
    pub version: u64,
    pub revision: u64,
    pub size: u64,
    #[serde(serialize_with = "as_hex")]
    pub checksum: u32,
    /// Where the data of this write begins in the version.
    pub offset: u64,
    pub inode: u64,
    #[serde(serialize_with = "as_rfc3339")]
    pub commit_time: u64,
    pub group: u32,
    pub epoch: u64,
    /// The servers that hold it on stable storage.
    pub servers: Vec<String>,
}

impl From<&Receipt> for ReceiptView {
    fn from(receipt: &Receipt) -> Self {
        Self {
            path: receipt.path.to_string(),
            version: receipt.version.0,
            revision: receipt.revision.0,
            size: receipt.size,
            checksum: receipt.checksum,
            offset: receipt.offset,
            inode: receipt.inode.0,
            commit_time: receipt.commit_time.0,
            group: receipt.group.0,
            epoch: receipt.epoch.0,
            servers: receipt.servers.iter().map(ToString::to_string).collect(),
        }
    }
}

/// For people: `wrote /a: version 2, 12 B, on stable storage on 3 servers: a, b, c`.
pub fn sentence(verb: &str, receipt: &Receipt) -> String {
    let servers: Vec<_> = receipt.servers.iter().map(ToString::to_string).collect();
    let copies = match servers.len() {
        1 => "1 server".to_owned(),
        count => format!("{count} servers"),
    };
    format!(
        "{verb} {}: version {}, {}, on stable storage on {copies}: {}",
        receipt.path,
        receipt.version,
        table::binary_size(receipt.size),
        servers.join(", ")
    )
}

/// For a change of the namespace that made a version and moved no data.
pub fn version_sentence(verb: &str, entry: &Entry) -> String {
    format!("{verb} {}: version {}, {}", entry.path, entry.version, table::binary_size(entry.size))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::types::{Epoch, GroupId, Inode, Revision, Timestamp, Version};

    pub fn a_receipt() -> Receipt {
        Receipt {
            path: "/a".parse().unwrap(),
            inode: Inode(5),
            version: Version(2),
            revision: Revision(9),
            size: 12,
            checksum: 0xab,
            offset: 0,
            commit_time: Timestamp(1_000),
            group: GroupId(3),
            epoch: Epoch(4),
            servers: ["fs-a", "fs-b"].iter().map(|id| id.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_receipt_says_version_and_copies() {
        assert_eq!(
            sentence("wrote", &a_receipt()),
            "wrote /a: version 2, 12 B, on stable storage on 2 servers: fs-a, fs-b"
        );
    }

    #[test]
    fn a_receipt_in_json_has_plain_numbers() {
        let value = serde_json::to_value(ReceiptView::from(&a_receipt())).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "path": "/a", "version": 2, "revision": 9, "size": 12, "checksum": "000000ab", "offset": 0, "inode": 5,
                "commitTime": "1970-01-01T00:00:01Z", "group": 3, "epoch": 4, "servers": ["fs-a", "fs-b"],
            })
        );
    }
}
