//! `fsck` and `repair`: whether every copy is there and whole, and having servers see to it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    context::Context,
    error::{Error, Result},
    list::At,
    output::{Format, Row},
    table::{self, Column},
};
use crate::client::{AsOf, Client, Finding, FsckEvent, FsckOptions, FsckSummary, Problem};

/// Findings that one JSON value holds; `-o jsonl` has them all.
const LISTED_MAX: usize = 10_000;

#[derive(Debug, clap::Args)]
pub struct FsckArguments {
    /// What is checked: a file, or everything below a directory
    #[arg(default_value = "/")]
    path: String,
    /// Have servers read every chunk from disk, and compare with the checksums of the files
    #[arg(long)]
    deep: bool,
    /// Leave older versions out
    #[arg(long)]
    newest: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
pub struct RepairArguments {
    /// What is checked and mended: a file, or everything below a directory
    #[arg(default_value = "/")]
    path: String,
    /// Have servers read every chunk from disk first
    #[arg(long)]
    deep: bool,
    /// Leave older versions out
    #[arg(long)]
    newest: bool,
    /// Print what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

fn problem_text(problem: Problem) -> &'static str {
    match problem {
        Problem::Lost => "LOST",
        Problem::Damaged => "DAMAGED",
        Problem::Missing => "MISSING",
        Problem::Unreachable => "UNREACHABLE",
        Problem::UnderReplicated => "UNDER_REPLICATED",
        Problem::Extra => "EXTRA",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingView {
    problem: &'static str,
    path: Option<String>,
    version: Option<u64>,
    server_id: Option<String>,
    group: Option<u32>,
    blobs: Vec<String>,
    detail: String,
}

impl From<&Finding> for FindingView {
    fn from(finding: &Finding) -> Self {
        Self {
            problem: problem_text(finding.problem),
            path: finding.path.as_ref().map(ToString::to_string),
            version: finding.version.map(|version| version.0),
            server_id: finding.server.as_ref().map(ToString::to_string),
            group: finding.group.map(|group| group.0),
            blobs: finding.blobs.iter().map(|(_, blob)| blob.to_string()).collect(),
            detail: finding.detail.clone(),
        }
    }
}

impl Row for FindingView {
    const COLUMNS: &'static [Column] = &[
        Column::left("PROBLEM"),
        Column::left("SERVER"),
        Column::right("GROUP"),
        Column::right("VERSION"),
        Column::left("PATH"),
        Column::left("DETAIL"),
    ];

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u64>| table::or_dash(number.map(|number| number.to_string()).unwrap_or_default());
        vec![
            self.problem.to_owned(),
            table::or_dash(self.server_id.clone().unwrap_or_default()),
            number(self.group.map(u64::from)),
            number(self.version),
            table::or_dash(self.path.clone().unwrap_or_default()),
            self.detail.clone(),
        ]
    }

    fn name(&self) -> String {
        self.path.clone().unwrap_or_default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FsckView {
    path: String,
    deep: bool,
    clean: bool,
    file_count: u64,
    version_count: u64,
    extent_count: u64,
    bytes: u64,
    copy_count: u64,
    good_copy_count: u64,
    bytes_read: u64,
    /// Seemed wrong and had only changed meanwhile.
    looked_again_count: u64,
    /// By problem.
    finding_counts: BTreeMap<&'static str, u64>,
    findings: Vec<FindingView>,
}

impl FsckView {
    fn new(path: &str, deep: bool, summary: &FsckSummary, findings: Vec<FindingView>) -> Self {
        Self {
            path: path.to_owned(),
            deep,
            clean: summary.is_clean(),
            file_count: summary.files,
            version_count: summary.versions,
            extent_count: summary.extents,
            bytes: summary.bytes,
            copy_count: summary.copies,
            good_copy_count: summary.copies_good,
            bytes_read: summary.bytes_read,
            looked_again_count: summary.looked_again,
            finding_counts: summary.findings.iter().map(|(problem, count)| (problem_text(*problem), *count)).collect(),
            findings,
        }
    }

    fn sentence(&self) -> String {
        let read = match self.deep {
            true => format!(", {} read from disks", table::binary_size(self.bytes_read)),
            false => String::new(),
        };
        format!(
            "{}: {} files, {} versions, {}; {} of {} copies of {} extents are good{read}",
            self.path,
            self.file_count,
            self.version_count,
            table::binary_size(self.bytes),
            self.good_copy_count,
            self.copy_count,
            self.extent_count,
        )
    }
}

/// Exit code 10 when something is wrong that concerns data.
pub async fn fsck(context: &mut Context, arguments: FsckArguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let FsckArguments { deep, newest, at, .. } = arguments;
    let mut run = client.fsck(&path, FsckOptions { deep, newest_only: newest, as_of: at.as_of() });
    let format = context.output.format();
    let (mut listed, mut last) = (Vec::new(), FsckSummary::default());
    let bar = context.progress.bytes("checked", None);
    while let Some(event) = run.next().await {
        match event? {
            FsckEvent::Finding(finding) => match format {
                Format::Json | Format::Table | Format::Wide if listed.len() < LISTED_MAX => {
                    listed.push(FindingView::from(&finding));
                }
                Format::Json | Format::Table | Format::Wide => {}
                Format::Jsonl => bar.suspended(|| context.output.object_line(&FindingView::from(&finding)))?,
                Format::Name => {
                    let view = FindingView::from(&finding);
                    if !view.name().is_empty() {
                        bar.suspended(|| context.output.line(&view.name()))?;
                    }
                }
            },
            FsckEvent::Progress(summary) => bar.set(summary.bytes),
            FsckEvent::Done(summary) => last = summary,
        }
    }
    drop(bar);
    let problems: u64 = last.findings.values().sum();
    let harmful: u64 = last.findings.iter().filter(|(problem, _)| problem.is_harmful()).map(|(_, count)| count).sum();
    let view = FsckView::new(path.as_str(), deep, &last, listed);
    match format {
        Format::Json | Format::Jsonl => context.output.done(&view, "", "")?,
        Format::Name => {}
        Format::Table | Format::Wide => {
            context.output.line(&table::printable(&view.sentence()))?;
            let omitted = problems.saturating_sub(view.findings.len() as u64);
            if problems > 0 {
                context.output.all(view.findings)?;
            }
            if omitted > 0 {
                context.output.line(&format!("and {omitted} more: see -o jsonl"))?;
            }
            context.output.flush()?;
        }
    }
    if harmful > 0 {
        return Err(Error::Unhealthy(format!(
            "{harmful} things are wrong with {path}; `dfs-cli repair` mends what it can"
        )));
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RepairView {
    path: String,
    version: u64,
    server_id: String,
    problem: &'static str,
    blobs: Vec<String>,
    repaired_count: u64,
    result: String,
}

impl Row for RepairView {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::left("PROBLEM"),
        Column::right("VERSION"),
        Column::left("PATH"),
        Column::left("RESULT"),
    ];

    fn cells(&self) -> Vec<String> {
        let (version, result) = (self.version.to_string(), self.result.clone());
        vec![self.server_id.clone(), self.problem.to_owned(), version, self.path.clone(), result]
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}

/// Exit code 10 when something is still wrong afterwards, or would be.
pub async fn repair(context: &mut Context, arguments: RepairArguments) -> Result<()> {
    let client = context.client().await?;
    let path = context.path(&arguments.path)?;
    let options = FsckOptions { deep: arguments.deep, newest_only: arguments.newest, as_of: AsOf::Now };
    let mut run = client.fsck(&path, options);
    let mut left = 0_u64;
    let mut summary = FsckSummary::default();
    let mut rows = context.output.rows();
    while let Some(event) = run.next().await {
        match event? {
            FsckEvent::Finding(finding) => match finding.problem {
                Problem::Missing | Problem::Damaged => {
                    let (row, is_mended) = mend(&client, &finding, arguments.dry_run).await;
                    left += u64::from(!is_mended);
                    rows.push(&row)?;
                    rows.flush()?;
                }
                // What is lost has damaged copies, which are told by themselves.
                Problem::Lost | Problem::Extra => {}
                Problem::Unreachable | Problem::UnderReplicated => left += 1,
            },
            FsckEvent::Progress(_) => {}
            FsckEvent::Done(last) => summary = last,
        }
    }
    rows.finish()?;
    let (good, copies) = (summary.copies_good, summary.copies);
    context.output.say(&format!("{path}: {} versions, {good} of {copies} copies were good", summary.versions))?;
    match left {
        0 => Ok(()),
        left if arguments.dry_run => Err(Error::Unhealthy(format!("{left} things are to be mended"))),
        left => Err(Error::Unhealthy(format!(
            "{left} things are still wrong; groups and servers that are short mend themselves when servers are back (see status)"
        ))),
    }
}

async fn mend(client: &Client, finding: &Finding, dry_run: bool) -> (RepairView, bool) {
    let mut repaired_count = 0;
    let mut failure = None;
    if let Some(server) = finding.server.as_ref().filter(|_| !dry_run) {
        match client.repair_blobs(server, &finding.blobs).await {
            Ok(results) => {
                for result in results {
                    match result {
                        Ok(repaired) => repaired_count += u64::from(repaired),
                        Err(error) => failure = Some(error.to_string()),
                    }
                }
            }
            Err(error) => failure = Some(error.to_string()),
        }
    }
    let result = match &failure {
        _ if dry_run => "would be fetched from another server".to_owned(),
        Some(error) => error.clone(),
        None if repaired_count > 0 => "fetched from another server".to_owned(),
        None => "mended already".to_owned(),
    };
    let view = RepairView {
        path: finding.path.as_ref().map(ToString::to_string).unwrap_or_default(),
        version: finding.version.map_or(0, |version| version.0),
        server_id: finding.server.as_ref().map(ToString::to_string).unwrap_or_default(),
        problem: problem_text(finding.problem),
        blobs: finding.blobs.iter().map(|(_, blob)| blob.to_string()).collect(),
        repaired_count,
        result,
    };
    (view, failure.is_none() && !dry_run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_checked_is_one_sentence() {
        let summary = FsckSummary {
            files: 2,
            versions: 3,
            extents: 4,
            bytes: 2048,
            copies: 12,
            copies_good: 11,
            ..FsckSummary::default()
        };
        let view = FsckView::new("/a", false, &summary, Vec::new());
        assert_eq!(view.sentence(), "/a: 2 files, 3 versions, 2.0 KiB; 11 of 12 copies of 4 extents are good");
    }
}
