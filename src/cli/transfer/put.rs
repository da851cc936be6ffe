//! `put`: from this machine into the store.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path as LocalPath, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Outcome, Room, Tally};
use crate::{
    cli::{
        context::Context,
        error::{Error, Result},
        paths,
        progress::Bar,
        receipt,
        source::Source,
        write,
    },
    client::{AsOf, Client, CreateDirectory, Receipt, SmallFile, WriteOptions},
    status::{Failure, Reason},
    types::{Path, Precondition, Version},
};

/// A file up to this size is sent from memory.
const SMALL_BYTES_MAX: u64 = 256 << 10;
/// Looked at, read and sent together.
const BATCH_FILES: usize = 256;
/// Of the small ones among them.
const BATCH_BYTES: u64 = 32 << 20;
/// What a large file may hold in memory: frames in the queue and in the connection.
const SENDING_BYTES_MAX: u64 = 4 << 20;
/// When others write the same file meanwhile, `-f` tries again with what they left.
const ATTEMPTS: usize = 5;

#[derive(Debug, clap::Args)]
pub struct PutArguments {
    /// Files of this machine, and directories with -r; then where to put them
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    paths: Vec<OsString>,
    /// Directories with all below them
    #[arg(short, long)]
    recursive: bool,
    /// Replace what is there
    #[arg(short, long)]
    force: bool,
    /// Files at a time
    #[arg(short, long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

/// Something to be put, and where.
struct Job {
    from: PathBuf,
    to: Path,
    is_directory: bool,
}

pub async fn put(context: &mut Context, arguments: PutArguments) -> Result<()> {
    let [sources @ .., target] = arguments.paths.as_slice() else {
        return Err(Error::Usage("put takes a source and a target".to_owned()));
    };
    let target = target.to_str().ok_or_else(|| Error::Usage(format!("{}: a name must be UTF-8", target.display())))?;
    let client = context.client().await?;
    let mut tally = Tally::default();
    let jobs = plan(context, &client, &mut tally, sources, target, arguments.recursive).await?;
    if let ([_], [job @ Job { is_directory: false, .. }]) = (sources, jobs.as_slice()) {
        return single(context, &client, tally, job, arguments.force).await;
    }
    many(context, &client, tally, jobs, &arguments).await
}

/// One file, whose failure is the command's, with a bar of its own.
async fn single(context: &mut Context, client: &Client, mut tally: Tally, job: &Job, force: bool) -> Result<()> {
    let (_, length) = open(&job.from)?;
    let bar = context.progress.bytes(job.to.as_str(), Some(length));
    let receipt = one_file(context, client, job, force, &bar).await?;
    drop(bar);
    write::acknowledged(&receipt)?;
    let outcome = Outcome::File { bytes: receipt.size, to: receipt.path.to_string() };
    tally.count(context, &Bar::hidden(), "", Ok(outcome))?;
    tally.finish(context, &receipt::sentence("put", &receipt))
}

/// Where each source goes: below a directory that is there, else the target is the new name.
async fn plan(
    context: &mut Context,
    client: &Client,
    tally: &mut Tally,
    sources: &[OsString],
    target: &str,
    recursive: bool,
) -> Result<Vec<Job>> {
    let to = context.path(target)?;
    let into = match client.get(&to, AsOf::Now).await {
        Ok(entry) => entry.is_directory(),
        Err(error) if error.reason() == Reason::EntryNotFound => paths::names_a_directory(target),
        Err(error) => return Err(error.into()),
    };
    if sources.len() > 1 && !into {
        return Err(Error::Usage(format!("{to} is not a directory, but there are several sources")));
    }
    let mut jobs = Vec::new();
    for source in sources {
        match place(source, &to, into) {
            Ok(job) if job.is_directory && !recursive => {
                return Err(Error::Usage(format!("{} is a directory; -r puts it with all below it", source.display())));
            }
            Ok(job) if jobs.iter().any(|other: &Job| other.to == job.to) => {
                return Err(Error::Usage(format!("two of the sources would become {}", job.to)));
            }
            Ok(job) => jobs.push(job),
            Err(error) if sources.len() == 1 => return Err(error),
            Err(error) => tally.count(context, &Bar::hidden(), &source.to_string_lossy(), Err(error))?,
        }
    }
    Ok(jobs)
}

fn place(source: &OsStr, target: &Path, into: bool) -> Result<Job> {
    let from = PathBuf::from(source);
    let metadata = fs::metadata(&from).map_err(Error::local_file(&from))?;
    let to = if into { paths::join(target, &local_name(&from)?)? } else { target.clone() };
    Ok(Job { from, to, is_directory: metadata.is_dir() })
}

/// The name that a file of this machine gets in the store.
fn local_name(path: &LocalPath) -> Result<String> {
    let whole = if path.file_name().is_none() {
        // `.` and `..` have a name only once it is known where they are.
        fs::canonicalize(path).map_err(Error::local_file(path))?
    } else {
        path.to_owned()
    };
    let name = whole.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| Error::Usage(format!("{}: a name must be UTF-8", path.display())))
}

async fn one_file(context: &Context, client: &Client, job: &Job, force: bool, bar: &Bar) -> Result<Receipt> {
    let mut attempt = 1;
    loop {
        let options = options(context, client, job, force).await?;
        let (file, length) = open(&job.from)?;
        let source = match length {
            length if length <= SMALL_BYTES_MAX => Source::Bytes(read(file, &job.from)?),
            length => Source::File { file, length },
        };
        match source.send(client, &job.to, options, bar).await {
            Err(error) if error.reason() == Some(Reason::VersionMismatch) && !force => {
                return Err(Failure::new(Reason::EntryExists, format!("{} exists already", job.to)).into());
            }
            Err(error) if error.reason() == Some(Reason::VersionMismatch) && attempt < ATTEMPTS => {
                attempt += 1;
            }
            sent => return sent,
        }
    }
}

/// Based on what is there now with `-f`, else on there being nothing.
async fn options(context: &Context, client: &Client, job: &Job, force: bool) -> Result<WriteOptions> {
    let if_version = if force { current(client, &job.to).await? } else { Version(0) };
    let precondition = Precondition { fencing_token: context.lent_token(&job.to), if_version: Some(if_version) };
    let create_mode = Some(mode(&job.from)?);
    Ok(WriteOptions { create_parents: true, create_mode, ..WriteOptions::replace(precondition) })
}

/// 0 for a file that is not there.
async fn current(client: &Client, path: &Path) -> Result<Version> {
    match client.get(path, AsOf::Now).await {
        Ok(entry) => Ok(entry.version),
        Err(error) if error.reason() == Reason::EntryNotFound => Ok(Version(0)),
        Err(error) => Err(error.into()),
    }
}

fn mode(from: &LocalPath) -> Result<u32> {
    Ok(fs::metadata(from).map_err(Error::local_file(from))?.permissions().mode() & 0o777)
}

/// Looked at before it is opened: opening a named pipe would wait for somebody to write into it.
fn open(from: &LocalPath) -> Result<(fs::File, u64)> {
    let metadata = fs::metadata(from).map_err(Error::local_file(from))?;
    if !metadata.is_file() {
        return Err(Error::Here(format!("{} is not a file", from.display())));
    }
    Ok((fs::File::open(from).map_err(Error::local_file(from))?, metadata.len()))
}

fn read(mut file: fs::File, from: &LocalPath) -> Result<Bytes> {
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut content).map_err(Error::local_file(from))?;
    Ok(Bytes::from(content))
}

/// Directories as they are met, their files a batch at a time: of a large tree only the names still to be looked at are
/// in memory, and the content of one batch.
async fn many(
    context: &mut Context,
    client: &Client,
    mut tally: Tally,
    jobs: Vec<Job>,
    arguments: &PutArguments,
) -> Result<()> {
    let bar = context.progress.bytes("put", None);
    let mut pending = jobs;
    loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_FILES && bytes < BATCH_BYTES {
            let Some(job) = pending.pop() else { break };
            if !job.is_directory {
                // One that cannot be looked at fails when it is opened.
                bytes += fs::metadata(&job.from).map_or(0, |found| found.len()).min(SMALL_BYTES_MAX);
                batch.push(job);
                continue;
            }
            let name = job.from.display().to_string();
            match directory(client, &job).await {
                Ok(below) => {
                    tally.count(context, &bar, &name, Ok(Outcome::Directory))?;
                    for (from, job) in below.into_iter().rev() {
                        match job {
                            Ok(job) => pending.push(job),
                            Err(error) => tally.count(context, &bar, &from.display().to_string(), Err(error))?,
                        }
                    }
                }
                Err(error) => tally.count(context, &bar, &name, Err(error))?,
            }
        }
        if batch.is_empty() {
            break;
        }
        for (from, sent) in send(context, client, batch, arguments).await {
            let outcome = sent.map(|receipt| Outcome::File { bytes: receipt.size, to: receipt.path.to_string() });
            tally.count(context, &bar, &from.display().to_string(), outcome)?;
        }
    }
    drop(bar);
    let sentence = tally.sentence("put");
    tally.finish(context, &sentence)
}

/// Small files together on a few streams, large ones and those that somebody else writes too by themselves.
async fn send(
    context: &Context,
    client: &Client,
    batch: Vec<Job>,
    arguments: &PutArguments,
) -> Vec<(PathBuf, Result<Receipt>)> {
    let at_once = usize::from(arguments.jobs);
    let prepared = stream::iter(batch).map(|job| async move {
        let small = small(context, client, &job, arguments.force).await;
        (job, small)
    });
    let mut prepared = prepared.buffer_unordered(at_once);
    let (mut done, mut together, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    let mut sources = HashMap::new();
    while let Some((job, small)) = prepared.next().await {
        match small {
            // Answers are known by their path: a second file for the same target goes by itself.
            Ok(Some(_)) if sources.contains_key(&job.to) => apart.push(job),
            Ok(Some(file)) => {
                sources.insert(job.to.clone(), job);
                together.push(file);
            }
            Ok(None) => apart.push(job),
            Err(error) => done.push((job.from, Err(error))),
        }
    }
    let mut written = client.write_many(stream::iter(together));
    while let Some((path, receipt)) = written.next().await {
        let Some(job) = sources.remove(&path) else { continue };
        match receipt {
            Err(error) if error.reason() == Reason::VersionMismatch => apart.push(job),
            receipt => done.push((job.from, receipt.map_err(Error::from))),
        }
    }
    let room = &Room::new();
    let alone = stream::iter(apart).map(|job| async move {
        let sent = async {
            let _room = room.take(SENDING_BYTES_MAX).await?;
            one_file(context, client, &job, arguments.force, &Bar::hidden()).await
        };
        let sent = sent.await;
        (job.from, sent)
    });
    done.extend(alone.buffer_unordered(at_once).collect::<Vec<_>>().await);
    // In the order of their names, whichever was done first.
    done.sort_by(|(a, _), (b, _)| a.cmp(b));
    done
}

/// A file that fits a message, ready to be written; `None` for one that does not.
async fn small(context: &Context, client: &Client, job: &Job, force: bool) -> Result<Option<SmallFile>> {
    let (file, length) = open(&job.from)?;
    if length > SMALL_BYTES_MAX {
        return Ok(None);
    }
    let data = read(file, &job.from)?;
    let options = options(context, client, job, force).await?;
    Ok(Some(SmallFile { path: job.to.clone(), options, data }))
}

/// What is in a directory that was made, in name order, so that two runs do the same.
async fn directory(client: &Client, job: &Job) -> Result<Vec<(PathBuf, Result<Job>)>> {
    let how = CreateDirectory { parents: true, mode: Some(mode(&job.from)?) };
    client.create_directory(&job.to, how).await?;
    let mut below = Vec::new();
    for entry in fs::read_dir(&job.from).map_err(Error::local_file(&job.from))? {
        let entry = entry.map_err(Error::local_file(&job.from))?;
        let from = entry.path();
        let found = found(&job.to, &from, &entry);
        below.push((from, found));
    }
    below.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(below)
}

fn found(parent: &Path, from: &LocalPath, entry: &fs::DirEntry) -> Result<Job> {
    let to = paths::join(parent, &local_name(from)?)?;
    let is_directory = entry.file_type().map_err(Error::local_file(from))?.is_dir();
    Ok(Job { from: from.to_owned(), to, is_directory })
}
