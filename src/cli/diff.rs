//! `diff`: what changed between two versions of a file, line by line.

use std::{io::IsTerminal, time::Duration};

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::{
    context::Context,
    error::{Error, Result},
    table::printable,
};
use crate::{
    client::{AsOf, Client, ReadOptions},
    types::{Path, Version},
};

/// Both versions are held in memory.
const COMPARED_BYTES_MAX: u64 = 16 << 20;
/// After this the rest is compared less finely: texts that have nothing in common would take for ever.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines around a change.
const AROUND: usize = 3;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    path: String,
    /// The older version [default: the one before --to]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// The newer version [default: the newest]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffView {
    path: String,
    from_version: u64,
    to_version: u64,
    equal: bool,
    binary: bool,
    added: usize,
    removed: usize,
    /// In unified format; empty for binary files.
    diff: String,
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let to = match arguments.to {
        Some(version) => Version(version),
        None => client.lookup(&path, None, AsOf::Now).await?.entry.version,
    };
    let from = match arguments.from {
        Some(version) => Version(version),
        None if to.0 > 1 => Version(to.0 - 1),
        None => return Err(Error::Usage(format!("version {to} is the first of {path}; name another with --from"))),
    };
    let (old, new) = (content(&client, &path, from).await?, content(&client, &path, to).await?);
    // On a thread that may block, so that Ctrl-C is seen meanwhile.
    let named = path.clone();
    let compared = tokio::task::spawn_blocking(move || compare(&named, (from, &old), (to, &new)));
    let view = compared.await.map_err(|error| Error::Here(format!("the versions were not compared: {error}")))?;
    let (palette, binary) = (context.output.palette(), view.binary);
    if context.output.format().is_json() {
        return context.output.done(&view, path.as_str(), "");
    }
    if view.equal {
        return context.output.say(&format!("versions {from} and {to} of {path} have the same content"));
    }
    if binary {
        context.output.line(&format!("versions {from} and {to} of {} differ", printable(path.as_str())))?;
        return context.output.flush();
    }
    let is_terminal = std::io::stdout().is_terminal();
    if !is_terminal && !palette.paints() {
        // For `patch`: byte by byte.
        context.output.raw(view.diff.as_bytes())?;
        return context.output.flush();
    }
    for line in view.diff.lines() {
        let line = line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
        context.output.line(&match line.as_bytes().first() {
            Some(b'+') => palette.good(&line),
            Some(b'-') => palette.bad(&line),
            _ => line,
        })?;
    }
    context.output.flush()
}

async fn content(client: &Client, path: &Path, version: Version) -> Result<Vec<u8>> {
    let reader = client.read(path, ReadOptions { version: Some(version), ..ReadOptions::default() }).await?;
    if reader.length() > COMPARED_BYTES_MAX {
        return Err(Error::Usage(format!("version {version} of {path} has more than {COMPARED_BYTES_MAX} bytes")));
    }
    Ok(reader.bytes(COMPARED_BYTES_MAX).await?.to_vec())
}

fn compare(path: &Path, (from, old): (Version, &[u8]), (to, new): (Version, &[u8])) -> DiffView {
    let mut view = DiffView {
        path: path.to_string(),
        from_version: from.0,
        to_version: to.0,
        equal: old == new,
        binary: false,
        added: 0,
        removed: 0,
        diff: String::new(),
    };
    let (Ok(old), Ok(new)) = (std::str::from_utf8(old), std::str::from_utf8(new)) else {
        view.binary = true;
        return view;
    };
    if view.equal {
        return view;
    }
    let diff = TextDiff::configure().timeout(COMPARE_TIMEOUT).diff_lines(old, new);
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => view.added += 1,
            ChangeTag::Delete => view.removed += 1,
            ChangeTag::Equal => {}
        }
    }
    let names = (format!("{path} version {from}"), format!("{path} version {to}"));
    view.diff = diff.unified_diff().context_radius(AROUND).header(&names.0, &names.1).to_string();
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(old: &[u8], new: &[u8]) -> DiffView {
        compare(&"/a".parse().unwrap(), (Version(1), old), (Version(2), new))
    }

    #[test]
    fn changed_lines_are_shown_with_their_signs() {
        let view = compared(b"one\ntwo\nthree\n", b"one\n2\nthree\n");
        assert_eq!((view.added, view.removed, view.equal, view.binary), (1, 1, false, false));
        assert_eq!(view.diff, "--- /a version 1\n+++ /a version 2\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
    }

    #[test]
    fn equal_and_binary_versions_are_told() {
        let view = compared(b"same\n", b"same\n");
        assert!(view.equal && view.diff.is_empty());
        let view = compared(b"\xff\x00", b"\xff\x01");
        assert!(view.binary && !view.equal && view.diff.is_empty());
    }
}
