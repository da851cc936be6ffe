//! `watch`: the changes of a path and below, as they happen, for ever.

use futures::StreamExt;
use serde::Serialize;

use super::{
    context::Context,
    error::Result,
    list::kind_text,
    output::{Format, as_rfc3339},
    table,
};
use crate::{
    client::{Change, ChangeKind},
    types::Revision,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(default_value = ".")]
    path: String,
    /// Begin with the changes after this revision [default: from now]
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    /// End after this many changes
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeView {
    revision: u64,
    #[serde(serialize_with = "as_rfc3339")]
    time: u64,
    kind: &'static str,
    path: String,
    from_path: Option<String>,
    entry_kind: &'static str,
    inode: u64,
    version: u64,
}

fn change_text(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "created",
        ChangeKind::Written => "written",
        ChangeKind::Updated => "updated",
        ChangeKind::Moved => "moved",
        ChangeKind::Deleted => "deleted",
    }
}

impl From<&Change> for ChangeView {
    fn from(change: &Change) -> Self {
        Self {
            revision: change.revision.0,
            time: change.time.0,
            kind: change_text(change.kind),
            path: change.path.to_string(),
            from_path: change.from_path.as_ref().map(ToString::to_string),
            entry_kind: kind_text(change.entry_kind),
            inode: change.inode.0,
            version: change.version.0,
        }
    }
}

impl ChangeView {
    fn line(&self) -> String {
        let (time, path) = (table::short_time(self.time), table::printable(&self.path));
        let more = match (&self.from_path, self.version) {
            (Some(from), _) => format!("  from {}", table::printable(from)),
            (None, 0) => String::new(),
            (None, version) => format!("  version {version}"),
        };
        format!("{:>8}  {time}  {:8} {path}{more}", self.revision, self.kind)
    }
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let changes = client.watch(&path, arguments.after.map(Revision));
    let mut changes =
        changes.take(arguments.count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX)));
    while let Some(change) = changes.next().await {
        let change = ChangeView::from(&change?);
        match context.output.format() {
            // It has no end, so it is one object a line.
            Format::Json | Format::Jsonl => context.output.object_line(&change)?,
            Format::Name => context.output.line(&change.path)?,
            Format::Table | Format::Wide => context.output.line(&change.line())?,
        }
        context.output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::EntryKind,
        types::{Inode, Timestamp, Version},
    };

    fn a_change(kind: ChangeKind, from: Option<&str>) -> Change {
        Change {
            revision: Revision(12),
            time: Timestamp(1_000),
            kind,
            path: "/b".parse().unwrap(),
            from_path: from.map(|path| path.parse().unwrap()),
            inode: Inode(5),
            version: Version(2),
            entry_kind: EntryKind::File,
        }
    }

    #[test]
    fn a_change_is_one_line() {
        let line = |kind, from| ChangeView::from(&a_change(kind, from)).line();
        assert_eq!(line(ChangeKind::Written, None), "      12  1970-01-01 00:00:01  written  /b  version 2");
        assert_eq!(line(ChangeKind::Moved, Some("/a")), "      12  1970-01-01 00:00:01  moved    /b  from /a");
    }

    #[test]
    fn a_change_in_json_has_plain_numbers() {
        let value = serde_json::to_value(ChangeView::from(&a_change(ChangeKind::Written, None))).unwrap();
        assert_eq!(
            (&value["kind"], &value["revision"], &value["fromPath"]),
            (&"written".into(), &12.into(), &serde_json::Value::Null)
        );
    }
}
