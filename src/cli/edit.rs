//! `edit`: a file in the user's editor, under its lock and only if it is still what was read.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path as LocalPath, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use tokio::process::Command;
use uuid::Uuid;

use super::{
    context::Context,
    error::{Error, Result},
    locking::{Held, Locking, acquire},
    shell::words,
    write,
};
use crate::{
    client::{ReadOptions, Receipt, WriteOptions},
    config::parse_duration,
    status::Reason,
    types::{Path, Precondition, Version},
};

/// An editor holds the whole file.
const EDITED_BYTES_MAX: u64 = 64 << 20;
const EDITOR_DEFAULT: &str = "vi";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The file; made if there is none
    path: String,
    /// How long to queue for the lock [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
}

pub async fn run(context: &mut Context, arguments: Arguments) -> Result<()> {
    let path = context.path(&arguments.path)?;
    let editor = editor()?;
    let saved = match context.lent_token(&path) {
        // Whoever lent it holds the lock: waiting for it would be waiting for ourselves.
        Some(token) => {
            let lent = Precondition { fencing_token: Some(token), if_version: None };
            edit(context, &path, &editor, || Ok(lent)).await?
        }
        None => {
            let held = Held::new(acquire(context, &path, Locking::exclusive(arguments.wait)).await?);
            let interrupt = context.interrupt.clone();
            let _hold = interrupt.hold();
            // A lease that is lost does not end it: what was typed is kept, and the Directory refuses it.
            let saved = tokio::select! {
                saved = edit(context, &path, &editor, || held.precondition()) => saved,
                interrupted = interrupt.raised() => Err(interrupted),
            };
            held.finish(&saved).await;
            saved?
        }
    };
    match saved {
        Some(receipt) => write::done(context, "wrote", &receipt),
        None => context.output.say("nothing was changed"),
    }
}

/// `None`: the editor left it as it was.
async fn edit(
    context: &mut Context,
    path: &Path,
    editor: &[String],
    right: impl FnOnce() -> Result<Precondition>,
) -> Result<Option<Receipt>> {
    let (content, base) = read(context, path).await?;
    let mut draft = Draft::make(path, content)?;
    {
        // Ctrl-C is the editor's, and nothing but its end may throw away what somebody typed into it.
        let _deaf = context.interrupt.deafen();
        open(editor, &draft.file).await?;
    }
    let edited = fs::read(&draft.file).map_err(Error::local_file(&draft.file))?;
    if edited == draft.original {
        return Ok(None);
    }
    let client = context.client().await?;
    let precondition = Precondition { if_version: Some(base), ..right()? };
    let receipt = client.write_bytes(path, WriteOptions::replace(precondition), Bytes::from(edited)).await?;
    draft.saved = true;
    Ok(Some(receipt))
}

/// The content and its version; nothing and 0 for a file that is not there.
async fn read(context: &mut Context, path: &Path) -> Result<(Bytes, Version)> {
    let client = context.client().await?;
    match client.read(path, ReadOptions::default()).await {
        Ok(reader) => {
            let version = reader.entry().version;
            Ok((reader.bytes(EDITED_BYTES_MAX).await?, version))
        }
        Err(error) if error.reason() == Reason::EntryNotFound => Ok((Bytes::new(), Version(0))),
        Err(error) => Err(error.into()),
    }
}

/// `$VISUAL`, else `$EDITOR`, which may carry arguments.
fn editor() -> Result<Vec<String>> {
    let named = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    let named = named.unwrap_or_else(|| OsString::from(EDITOR_DEFAULT));
    let text = named.to_string_lossy();
    let words = words::split(&text).map_err(|error| Error::Usage(format!("the editor `{text}`: {error}")))?;
    if words.is_empty() { Ok(vec![EDITOR_DEFAULT.to_owned()]) } else { Ok(words) }
}

async fn open(editor: &[String], file: &LocalPath) -> Result<()> {
    let [program, arguments @ ..] = editor else { return Err(Error::Here("no editor".to_owned())) };
    let mut child = Command::new(program);
    child.args(arguments).arg(file).stdin(Stdio::inherit()).kill_on_drop(true);
    let status = child.status().await.map_err(Error::local(program))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Here(format!("{program} ended with {status}: nothing was written")))
    }
}

/// The text on this machine, readable by nobody else. It goes when this is dropped, unless it was changed and not saved:
/// what somebody typed is not thrown away because the cluster said no.
struct Draft {
    folder: PathBuf,
    file: PathBuf,
    original: Bytes,
    saved: bool,
}

impl Draft {
    fn make(path: &Path, original: Bytes) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("dfs-edit-{}", Uuid::new_v4().simple()));
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(Error::local_file(&folder))?;
        // The file keeps its name, so that the editor knows what it is.
        let file = folder.join(path.name().unwrap_or("file"));
        fs::write(&file, &original).map_err(Error::local_file(&file))?;
        Ok(Self { folder, file, original, saved: false })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.saved && fs::read(&self.file).is_ok_and(|now| now != self.original) {
            eprintln!("your text is kept in {}", self.file.display());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "could not remove the edited file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_draft() -> Draft {
        Draft::make(&"/notes.txt".parse().unwrap(), Bytes::from_static(b"before")).unwrap()
    }

    #[test]
    fn a_draft_goes_when_it_was_saved_or_not_changed() {
        let draft = a_draft();
        let folder = draft.folder.clone();
        assert!(draft.file.ends_with("notes.txt") && draft.file.exists());
        drop(draft);
        assert!(!folder.exists());
        let mut draft = a_draft();
        let folder = draft.folder.clone();
        fs::write(&draft.file, "after").unwrap();
        draft.saved = true;
        drop(draft);
        assert!(!folder.exists());
    }

    #[test]
    fn a_draft_that_could_not_be_saved_is_kept() {
        let draft = a_draft();
        let (folder, file) = (draft.folder.clone(), draft.file.clone());
        fs::write(&file, "after").unwrap();
        drop(draft);
        assert_eq!(fs::read(&file).unwrap(), b"after");
        fs::remove_dir_all(folder).unwrap();
    }
}
