//! `versions` and `restore`: what a file was before.

use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;

use super::{
    context::Context,
    error::Result,
    list::EntryView,
    locking::{Locking, under_lock},
    output::{Row, as_hex, as_rfc3339},
    receipt::version_sentence,
    table::{self, Column},
};
use crate::{
    client::VersionInfo,
    config::parse_duration,
    types::{Precondition, Version},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    path: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionView {
    version: u64,
    size: u64,
    #[serde(serialize_with = "as_hex")]
    checksum: u32,
    #[serde(serialize_with = "as_rfc3339")]
    create_time: u64,
    revision: u64,
    extent_count: u32,
    write_id: Option<String>,
}

impl From<VersionInfo> for VersionView {
    fn from(info: VersionInfo) -> Self {
        Self {
            version: info.version.0,
            size: info.size,
            checksum: info.checksum,
            create_time: info.create_time.0,
            revision: info.revision.0,
            extent_count: info.extent_count,
            write_id: info.write_id.map(|id| id.to_string()),
        }
    }
}

impl Row for VersionView {
    const COLUMNS: &'static [Column] = &[
        Column::right("VERSION"),
        Column::right("SIZE"),
        Column::left("CRC32C"),
        Column::left("CREATED"),
        Column::right("REVISION").wide(),
        Column::right("EXTENTS").wide(),
        Column::left("WRITE ID").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.version.to_string(),
            table::binary_size(self.size),
            table::checksum(self.checksum),
            table::short_time(self.create_time),
            self.revision.to_string(),
            self.extent_count.to_string(),
            table::or_dash(self.write_id.clone().unwrap_or_default()),
        ]
    }

    fn name(&self) -> String {
        self.version.to_string()
    }
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let mut versions = client.versions(&path);
    let mut rows = context.output.rows();
    while let Some(version) = versions.next().await {
        rows.push(&VersionView::from(version?))?;
    }
    rows.finish()
}

#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    path: String,
    /// The version to make the newest again, as a new version
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: u64,
    /// Only if this is the newest version, without locking
    #[arg(long, value_name = "N", conflicts_with = "wait")]
    if_version: Option<u64>,
    /// How long to queue for the lock [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
}

pub async fn restore(context: &mut Context, arguments: RestoreArguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let version = Version(arguments.version);
    let fencing_token = context.lent_token(&path);
    let right = Precondition { fencing_token, if_version: arguments.if_version.map(Version) };
    let entry = if right.is_none() {
        under_lock(context, &path, Locking::exclusive(arguments.wait), async |_, held| {
            Ok(client.restore(&path, version, held.precondition()?).await?)
        })
        .await?
    } else {
        client.restore(&path, version, right).await?
    };
    let sentence = version_sentence(&format!("restored version {version} of"), &entry);
    context.output.done(&EntryView::by_path(&entry), path.as_str(), &sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Revision, Timestamp};

    #[test]
    fn a_version_in_json_has_plain_numbers() {
        let info = VersionInfo {
            version: Version(2),
            revision: Revision(8),
            size: 5,
            checksum: 1,
            create_time: Timestamp(1_000),
            extent_count: 1,
            write_id: None,
        };
        assert_eq!(
            serde_json::to_value(VersionView::from(info)).unwrap(),
            serde_json::json!({
                "version": 2, "size": 5, "checksum": "00000001", "createTime": "1970-01-01T00:00:01Z", "revision": 8,
                "extentCount": 1, "writeId": null,
            })
        );
    }
}
