//! `replicas`, also called `explain`: where the copies of a file are, each read anew from its server's own disk.

use serde::Serialize;

use super::{
    context::Context,
    error::{Error, Result},
    output::{Format, Row, as_hex},
    table::{self, Column},
};
use crate::{
    client::{ReplicaReport, Verification},
    status::{Failure, Reason},
    types::Version,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    path: String,
    /// Of this version instead of the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicasView {
    path: String,
    version: u64,
    size: u64,
    #[serde(serialize_with = "as_hex")]
    checksum: u32,
    extent_count: usize,
    good_count: usize,
    replicas: Vec<ReplicaView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaView {
    server_id: String,
    address: String,
    groups: Vec<u32>,
    /// Writes of the file go through it.
    primary: bool,
    in_sync: bool,
    /// Bytes read from this server's disk.
    size: u64,
    /// Of those bytes; none when not all of them could be read.
    checksum: Option<String>,
    good: bool,
    error: Option<String>,
}

impl From<&ReplicaReport> for ReplicaView {
    fn from(report: &ReplicaReport) -> Self {
        Self {
            server_id: report.server.to_string(),
            address: report.address.clone(),
            groups: report.groups.iter().map(|group| group.0).collect(),
            primary: report.primary,
            in_sync: report.in_sync,
            size: report.size,
            checksum: report.checksum.map(table::checksum),
            good: report.good,
            error: report.error.as_ref().map(ToString::to_string),
        }
    }
}

impl Row for ReplicaView {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::left("ROLE"),
        Column::left("IN SYNC"),
        Column::right("SIZE"),
        Column::left("CRC32C"),
        Column::left("COPY"),
        Column::left("ADDRESS").wide(),
        Column::left("GROUPS").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        let groups: Vec<_> = self.groups.iter().map(ToString::to_string).collect();
        vec![
            self.server_id.clone(),
            if self.primary { "primary" } else { "replica" }.to_owned(),
            if self.in_sync { "yes" } else { "no" }.to_owned(),
            table::binary_size(self.size),
            table::or_dash(self.checksum.clone().unwrap_or_default()),
            match &self.error {
                Some(error) => error.clone(),
                None if self.good => "good".to_owned(),
                None => "differs".to_owned(),
            },
            self.address.clone(),
            groups.join(","),
        ]
    }

    fn name(&self) -> String {
        self.server_id.clone()
    }
}

impl From<&Verification> for ReplicasView {
    fn from(found: &Verification) -> Self {
        Self {
            path: found.entry.path.to_string(),
            version: found.entry.version.0,
            size: found.entry.size,
            checksum: found.entry.checksum,
            extent_count: found.extents.len(),
            good_count: found.good_count(),
            replicas: found.replicas.iter().map(ReplicaView::from).collect(),
        }
    }
}

/// Exit code 8 when an in-sync copy is damaged, 6 when one cannot be read.
pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let found = client.verify(&path, arguments.version.map(Version)).await?;
    let view = ReplicasView::from(&found);
    match context.output.format() {
        Format::Json | Format::Jsonl => context.output.done(&view, path.as_str(), "")?,
        _ => {
            let checksum = table::checksum(view.checksum);
            let size = table::binary_size(view.size);
            let summary = format!("{path} version {}: {size}, crc32c {checksum}", view.version);
            let count = view.replicas.len();
            if view.extent_count == 0 {
                return context.output.say(&format!("{summary}: an empty file has no bytes, so no server holds any"));
            }
            let good = format!("{} of {count} copies good", view.good_count);
            context.output.say(&format!("{summary}, {good}"))?;
            context.output.all(view.replicas)?;
        }
    }
    verdict(&found)
}

/// A copy that is not in sync is not expected to be whole.
fn verdict(found: &Verification) -> Result<()> {
    let mut bad = found.replicas.iter().filter(|report| report.in_sync && !report.good).peekable();
    let Some(first) = bad.peek() else { return Ok(()) };
    let reason = first.error.as_ref().map_or(Reason::ChecksumMismatch, |error| error.reason());
    let servers: Vec<_> = bad.map(|report| report.server.to_string()).collect();
    let text = format!("the copy of {} is not good on {}", found.entry.path, servers.join(", "));
    Err(Error::from(Failure::new(reason, text)))
}
