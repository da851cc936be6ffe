//! `tree`: everything below a directory, drawn as it streams in.
//!
//! Levels are indented, without the lines that others draw: whether a line must go on is known only when the next entry
//! of its level has come, which may be a million entries later.

use futures::StreamExt;

use super::{
    context::Context,
    error::Result,
    list::{At, EntryView, Short, name_below},
    output::Format,
    table::{binary_size, printable},
};
use crate::{
    client::{Entry, WalkOptions},
    types::Path,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(default_value = ".")]
    path: String,
    /// How many levels to show
    #[arg(short, long, value_name = "LEVELS", value_parser = clap::value_parser!(u32).range(1..))]
    depth: Option<u32>,
    #[command(flatten)]
    at: At,
}

#[derive(Default)]
struct Totals {
    directories: u64,
    files: u64,
    bytes: u64,
}

impl Totals {
    fn count(&mut self, entry: &Entry) {
        if entry.is_directory() {
            self.directories += 1;
        } else {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(entry.size);
        }
    }

    fn sentence(&self) -> String {
        let many = |count: u64, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let directories = many(self.directories, "directory", "directories");
        format!("{directories}, {}, {}", many(self.files, "file", "files"), binary_size(self.bytes))
    }
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let depth_max = arguments.depth.map_or(usize::MAX, |depth| depth as usize);
    let walked = client.walk(&path, WalkOptions { extents: false, as_of: arguments.at.as_of() }).await?;
    let mut entries = walked.map(|listed| listed.map(|listed| listed.entry)).boxed();
    let drawn = matches!(context.output.format(), Format::Table | Format::Wide);
    if !drawn {
        let mut rows = context.output.rows();
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if (1..=depth_max).contains(&depth(&path, &entry.path)) {
                rows.push(&Short(EntryView::new(&entry, name_below(&path, &entry.path))))?;
            }
        }
        return rows.finish();
    }
    let mut totals = Totals::default();
    // What is no directory is told before anything is drawn of it.
    let mut next = entries.next().await.transpose()?;
    context.output.line(&printable(path.as_str()))?;
    while let Some(entry) = next {
        let depth = depth(&path, &entry.path);
        totals.count(&entry);
        if depth <= depth_max {
            context.output.line(&drawing(depth, &entry))?;
        }
        next = entries.next().await.transpose()?;
    }
    context.output.flush()?;
    context.output.say(&totals.sentence())
}

/// Levels below `root`.
fn depth(root: &Path, path: &Path) -> usize {
    path.segments().count().saturating_sub(root.segments().count())
}

fn drawing(depth: usize, entry: &Entry) -> String {
    let indent = "  ".repeat(depth);
    let name = printable(entry.path.name().unwrap_or("/"));
    if entry.is_directory() {
        format!("{indent}{name}/")
    } else {
        format!("{indent}{name}  {}", binary_size(entry.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::list::tests::a_file;

    #[test]
    fn levels_are_indented() {
        let root: Path = "/a".parse().unwrap();
        let entry = a_file("/a/b/c");
        assert_eq!(depth(&root, &entry.path), 2);
        assert_eq!(drawing(2, &entry), "    c  1.5 KiB");
        assert_eq!(depth(&Path::root(), &entry.path), 3);
    }

    #[test]
    fn the_totals_are_said() {
        let mut totals = Totals::default();
        totals.count(&a_file("/a/b/c"));
        assert_eq!(totals.sentence(), "0 directories, 1 file, 1.5 KiB");
    }
}
