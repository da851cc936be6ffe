//! `list`: what is in a directory, streamed, so that a million entries need no memory.

use futures::StreamExt;
use serde::Serialize;

use super::{
    context::Context,
    error::Result,
    output::{Details, Row, as_hex, as_rfc3339},
    settings::Moment,
    table::{self, Column},
};
use crate::{
    client::{AsOf, Entry, EntryKind, WalkOptions},
    types::{Path, Revision, Timestamp},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A directory, or a file to show by itself
    #[arg(default_value = ".")]
    path: String,
    /// Size, version and time of each entry
    #[arg(short, long)]
    long: bool,
    /// Everything below, too
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    at: At,
}

/// The moment at which a reading command looks.
#[derive(Debug, Default, clap::Args)]
pub struct At {
    /// As it was at this time or just after this revision
    #[arg(long, value_name = "TIME|REVISION")]
    at: Option<Moment>,
}

impl At {
    pub fn as_of(&self) -> AsOf {
        match self.at {
            None => AsOf::Now,
            Some(Moment::Revision(revision)) => AsOf::Revision(Revision(revision)),
            Some(Moment::Time(millis)) => AsOf::Time(Timestamp(millis)),
        }
    }
}

/// An entry, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView {
    /// As listed: a name, or a path below what was listed.
    name: String,
    path: String,
    kind: &'static str,
    size: u64,
    version: u64,
    #[serde(serialize_with = "as_hex")]
    checksum: u32,
    inode: u64,
    revision: u64,
    #[serde(serialize_with = "as_rfc3339")]
    create_time: u64,
    #[serde(serialize_with = "as_rfc3339")]
    modify_time: u64,
    /// Octal, as chmod takes it.
    mode: String,
    owner: String,
    owning_group: String,
}

pub fn kind_text(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
    }
}

impl EntryView {
    pub fn new(entry: &Entry, name: String) -> Self {
        Self {
            name,
            path: entry.path.to_string(),
            kind: kind_text(entry.kind),
            size: entry.size,
            version: entry.version.0,
            checksum: entry.checksum,
            inode: entry.inode.0,
            revision: entry.revision.0,
            create_time: entry.create_time.0,
            modify_time: entry.modify_time.0,
            mode: format!("{:04o}", entry.mode),
            owner: entry.owner.clone(),
            owning_group: entry.owning_group.clone(),
        }
    }

    /// By its whole path.
    pub fn by_path(entry: &Entry) -> Self {
        Self::new(entry, entry.path.to_string())
    }

    fn is_directory(&self) -> bool {
        self.kind == "directory"
    }

    fn name_with_slash(&self) -> String {
        if self.is_directory() && !self.name.ends_with('/') { format!("{}/", self.name) } else { self.name.clone() }
    }

    fn file_only(&self, text: String) -> String {
        if self.is_directory() { "-".to_owned() } else { text }
    }
}

/// To the byte, which a small one is anyway.
fn size(bytes: u64) -> String {
    match table::binary_size(bytes) {
        exact if bytes < 1024 => exact,
        rounded => format!("{rounded} ({bytes} bytes)"),
    }
}

impl Details for EntryView {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let file_only = |text: String| if self.is_directory() { String::new() } else { text };
        vec![
            ("path", self.path.clone()),
            ("kind", self.kind.to_owned()),
            ("size", file_only(size(self.size))),
            ("version", file_only(self.version.to_string())),
            ("crc32c", file_only(table::checksum(self.checksum))),
            ("inode", self.inode.to_string()),
            ("revision", self.revision.to_string()),
            ("created", table::rfc3339(self.create_time)),
            ("modified", table::rfc3339(self.modify_time)),
            ("mode", self.mode.clone()),
            ("owner", self.owner.clone()),
            ("group", self.owning_group.clone()),
        ]
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}

/// A line of `list`.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Short(pub EntryView);

/// A line of `list -l`.
#[derive(Serialize)]
#[serde(transparent)]
struct Long(EntryView);

impl Row for Short {
    const COLUMNS: &'static [Column] = &[
        Column::left("NAME"),
        Column::right("SIZE"),
        Column::right("VERSION").wide(),
        Column::left("MODIFIED").wide(),
        Column::left("CRC32C").wide(),
        Column::right("INODE").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        let view = &self.0;
        vec![
            view.name_with_slash(),
            view.file_only(table::binary_size(view.size)),
            view.file_only(view.version.to_string()),
            table::short_time(view.modify_time),
            view.file_only(table::checksum(view.checksum)),
            view.inode.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.0.name.clone()
    }
}

impl Row for Long {
    const COLUMNS: &'static [Column] = &[
        Column::left("KIND"),
        Column::left("MODE"),
        Column::left("OWNER").wide(),
        Column::left("GROUP").wide(),
        Column::right("SIZE"),
        Column::right("VERSION"),
        Column::left("MODIFIED"),
        Column::left("CRC32C").wide(),
        Column::right("INODE").wide(),
        Column::right("REVISION").wide(),
        Column::left("NAME"),
    ];

    fn cells(&self) -> Vec<String> {
        let view = &self.0;
        vec![
            view.kind.to_owned(),
            view.mode.clone(),
            table::or_dash(&view.owner),
            table::or_dash(&view.owning_group),
            view.file_only(table::binary_size(view.size)),
            view.file_only(view.version.to_string()),
            table::short_time(view.modify_time),
            view.file_only(table::checksum(view.checksum)),
            view.inode.to_string(),
            view.revision.to_string(),
            view.name_with_slash(),
        ]
    }

    fn name(&self) -> String {
        self.0.name.clone()
    }
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    if arguments.long { rows(context, &arguments, Long).await } else { rows(context, &arguments, Short).await }
}

async fn rows<R: Row>(context: &mut Context, arguments: &Arguments, row: impl Fn(EntryView) -> R) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let as_of = arguments.at.as_of();
    let entry = client.get(&path, as_of).await?;
    if !entry.is_directory() {
        return context.output.all([row(EntryView::by_path(&entry))]);
    }
    let mut entries = if arguments.recursive {
        client.walk(&path, WalkOptions { extents: false, as_of }).await?.map(|listed| listed.map(|l| l.entry)).boxed()
    } else {
        client.list(&path, as_of)
    };
    let mut printed = context.output.rows();
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        if entry.path == path {
            continue;
        }
        let name = name_below(&path, &entry.path);
        printed.push(&row(EntryView::new(&entry, name)))?;
    }
    printed.finish()
}

/// The rest of `path` after the directory it lies in.
pub fn name_below(directory: &Path, path: &Path) -> String {
    let rest = path.as_str().strip_prefix(directory.as_str()).unwrap_or(path.as_str());
    rest.trim_start_matches('/').to_owned()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        cli::output::{Format, tests::printed},
        types::{Inode, Version},
    };

    pub fn a_file(path: &str) -> Entry {
        Entry {
            inode: Inode(7),
            path: path.parse().unwrap(),
            kind: EntryKind::File,
            size: 1536,
            version: Version(3),
            checksum: 0xe306_9283,
            revision: Revision(12),
            create_time: Timestamp(1_000),
            modify_time: Timestamp(2_000),
            mode: 0o644,
            owner: String::new(),
            owning_group: String::new(),
            extended_attributes: Default::default(),
            target: String::new(),
        }
    }

    fn a_directory(path: &str) -> Entry {
        Entry { kind: EntryKind::Directory, size: 0, version: Version(0), mode: 0o755, ..a_file(path) }
    }

    #[test]
    fn a_listing_has_directories_with_a_slash() {
        let entries = [a_directory("/d"), a_file("/f.txt")];
        let (out, _) = printed(Format::Table, |output| {
            output.all(entries.iter().map(|e| Short(EntryView::new(e, name_below(&Path::root(), &e.path))))).unwrap()
        });
        assert_eq!(out, "NAME      SIZE\nd/           -\nf.txt  1.5 KiB\n");
    }

    #[test]
    fn a_long_listing_has_versions_and_times() {
        let (out, _) =
            printed(Format::Table, |output| output.all([Long(EntryView::by_path(&a_file("/f.txt")))]).unwrap());
        assert_eq!(
            out,
            "KIND  MODE     SIZE  VERSION  MODIFIED             NAME\n\
             file  0644  1.5 KiB        3  1970-01-01 00:00:02  /f.txt\n"
        );
    }

    #[test]
    fn an_entry_in_json_has_plain_numbers_and_times() {
        let value = serde_json::to_value(EntryView::by_path(&a_file("/f.txt"))).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "name": "/f.txt", "path": "/f.txt", "kind": "file", "size": 1536, "version": 3, "checksum": "e3069283",
                "inode": 7, "revision": 12, "createTime": "1970-01-01T00:00:01Z", "modifyTime": "1970-01-01T00:00:02Z",
                "mode": "0644", "owner": "", "owningGroup": "",
            })
        );
    }

    #[test]
    fn names_are_told_from_where_the_listing_began() {
        let path = |text: &str| text.parse::<Path>().unwrap();
        assert_eq!(name_below(&path("/"), &path("/a/b")), "a/b");
        assert_eq!(name_below(&path("/a"), &path("/a/b/c")), "b/c");
    }
}
