//! One entry at a time: `stat`, `checksum`, `mkdir`.

use serde::Serialize;

use super::{
    context::Context,
    error::Result,
    list::{At, EntryView},
    output::{Done, Row, as_hex},
    table::{self, Column},
    tried::Tried,
};
use crate::{
    client::{Client, CreateDirectory, Entry},
    types::Version,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    path: String,
    #[command(flatten)]
    at: At,
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let entry = client.get(&path, arguments.at.as_of()).await?;
    context.output.details(&EntryView::by_path(&entry))
}

#[derive(Debug, clap::Args)]
pub struct ChecksumArguments {
    #[arg(required = true)]
    paths: Vec<String>,
    /// Of this version instead of the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    at: At,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChecksumView {
    path: String,
    version: u64,
    size: u64,
    #[serde(serialize_with = "as_hex")]
    checksum: u32,
}

impl Row for ChecksumView {
    const COLUMNS: &'static [Column] =
        &[Column::left("CRC32C"), Column::right("SIZE"), Column::right("VERSION"), Column::left("PATH")];

    fn cells(&self) -> Vec<String> {
        vec![table::checksum(self.checksum), table::binary_size(self.size), self.version.to_string(), self.path.clone()]
    }

    fn name(&self) -> String {
        table::checksum(self.checksum)
    }
}

/// What was computed as the file was written and is checked at every read; `replicas` computes it anew from each disk.
pub async fn checksums(context: &mut Context, arguments: ChecksumArguments) -> Result<()> {
    let client = context.client().await?;
    let mut rows = Vec::new();
    let mut tried = Tried::new(arguments.paths.len());
    for text in &arguments.paths {
        let found = checksum(context, &client, text, &arguments).await;
        rows.extend(tried.count(&mut context.output, text, found)?);
    }
    if !rows.is_empty() {
        context.output.all(rows)?;
    }
    tried.finish()
}

async fn checksum(
    context: &Context,
    client: &Client,
    text: &str,
    arguments: &ChecksumArguments,
) -> Result<ChecksumView> {
    let path = context.path(text)?;
    let entry = client.lookup(&path, arguments.version.map(Version), arguments.at.as_of()).await?.entry;
    Ok(ChecksumView { path: path.to_string(), version: entry.version.0, size: entry.size, checksum: entry.checksum })
}

#[derive(Debug, clap::Args)]
pub struct MakeDirectoryArguments {
    #[arg(required = true)]
    paths: Vec<String>,
    /// Make missing parents too, and accept a directory that is there
    #[arg(short, long)]
    parents: bool,
    /// Permission bits, octal
    #[arg(short, long, default_value = "755", value_parser = parse_mode)]
    mode: u32,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("`{text}` is not a mode: use octal digits, such as 755"))
}

pub async fn make_directories(context: &mut Context, arguments: MakeDirectoryArguments) -> Result<()> {
    let client = context.client().await?;
    let mut made = Vec::new();
    let mut tried = Tried::new(arguments.paths.len());
    for text in &arguments.paths {
        let how = CreateDirectory { parents: arguments.parents, mode: Some(arguments.mode) };
        let entry = make_directory(context, &client, text, how).await;
        let entry = tried.count(&mut context.output, text, entry)?;
        made.extend(entry.map(|entry| Done {
            value: EntryView::by_path(&entry),
            name: entry.path.to_string(),
            sentence: format!("made {}", entry.path),
        }));
    }
    context.output.done_many(&made)?;
    tried.finish()
}

async fn make_directory(context: &Context, client: &Client, text: &str, how: CreateDirectory) -> Result<Entry> {
    Ok(client.create_directory(&context.path(text)?, how).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(parse_mode("1750"), Ok(0o1750));
        for bad in ["9", "", "17777", "rwx"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }
}
