//! How the cluster is, and who is in it: `status`, `servers ls`, `groups`.

use clap::Subcommand;
use serde::Serialize;

use super::{
    administer,
    context::Context,
    error::{Error, Result},
    output::{Output, Row, as_rfc3339},
    table::{self, Column},
};
use crate::client::{ClusterStatus, Group, Health, HealthCheck, Server, ServerState};

#[derive(Debug, Subcommand)]
pub enum ServersCommand {
    /// List all servers
    #[command(visible_alias = "list")]
    Ls,
    /// Move every group of a file server to others, so that it can be removed
    Drain(administer::DrainArguments),
    /// End a drain: the server keeps what it still has
    Resume(administer::ResumeArguments),
    /// Take a file server out of the cluster that was drained, or is lost for good
    Rm(administer::RemoveArguments),
}

#[derive(Debug, clap::Args)]
pub struct GroupsArguments {
    /// Only groups with fewer in-sync members than they should have
    #[arg(long)]
    short: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    health: &'static str,
    checks: Vec<CheckView>,
    cluster_id: String,
    revision: u64,
    server_count: u32,
    server_up_count: u32,
    group_count: u32,
    group_full_count: u32,
    copies: u32,
    min_in_sync: u32,
    file_count: u64,
    directory_count: u64,
    blob_count: u64,
    garbage_blob_count: u64,
    moving_group_count: u32,
    rebalancing: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckView {
    code: String,
    health: &'static str,
    summary: String,
    hint: String,
    subjects: Vec<String>,
}

impl From<&HealthCheck> for CheckView {
    fn from(check: &HealthCheck) -> Self {
        Self {
            code: check.code.clone(),
            health: health_text(check.health),
            summary: check.summary.clone(),
            hint: check.hint.clone(),
            subjects: check.subjects.clone(),
        }
    }
}

pub fn health_text(health: Health) -> &'static str {
    match health {
        Health::Ok => "OK",
        Health::Warn => "WARN",
        Health::Error => "ERROR",
    }
}

impl From<&ClusterStatus> for StatusView {
    fn from(status: &ClusterStatus) -> Self {
        Self {
            health: health_text(status.health),
            checks: status.checks.iter().map(CheckView::from).collect(),
            cluster_id: status.cluster_id.clone(),
            revision: status.revision.0,
            server_count: status.server_count,
            server_up_count: status.server_up_count,
            group_count: status.group_count,
            group_full_count: status.group_full_count,
            copies: status.copies,
            min_in_sync: status.min_in_sync,
            file_count: status.file_count,
            directory_count: status.directory_count,
            blob_count: status.blob_count,
            garbage_blob_count: status.garbage_blob_count,
            moving_group_count: status.moving_group_count,
            rebalancing: status.rebalancing,
        }
    }
}

/// Exit code 10 when something cannot be read or written.
pub async fn status(context: &mut Context) -> Result<()> {
    let client = context.client().await?;
    let status = client.status().await?;
    let view = StatusView::from(&status);
    if context.output.format().is_json() {
        context.output.done(&view, "", "")?;
    } else {
        print_status(&mut context.output, status.health, &view)?;
    }
    match status.health {
        Health::Ok | Health::Warn => Ok(()),
        Health::Error => Err(Error::Unhealthy("the cluster cannot serve all of its data".to_owned())),
    }
}

/// How it is, and everything that wants attention with what to do.
pub fn print_checks(output: &mut Output, health: Health, checks: &[CheckView]) -> Result<()> {
    let palette = output.palette();
    let paint = |text: &str| match text {
        "OK" => palette.good(text),
        "WARN" => palette.warning(text),
        _ => palette.bad(text),
    };
    output.line(&format!("health:   {}", paint(health_text(health))))?;
    for check in checks {
        let subjects = subjects(&check.subjects);
        output.line(&table::printable(&format!("  {} {}{subjects}", check.code, check.summary)))?;
        if !check.hint.is_empty() {
            output.line(&table::printable(&format!("    {}", check.hint)))?;
        }
    }
    Ok(())
}

fn print_status(output: &mut Output, health: Health, view: &StatusView) -> Result<()> {
    print_checks(output, health, &view.checks)?;
    output.line(&format!("servers:  {} of {} up", view.server_up_count, view.server_count))?;
    output.line(&format!("groups:   {} of {} have all members in sync", view.group_full_count, view.group_count))?;
    if view.moving_group_count > 0 || view.rebalancing {
        let why = if view.rebalancing { ", to spread all groups evenly" } else { "" };
        output.line(&format!("moving:   {} groups{why}", view.moving_group_count))?;
    }
    output.line(&format!("copies:   {}, at least {} in sync for a write", view.copies, view.min_in_sync))?;
    let directories = if view.directory_count == 1 { "directory" } else { "directories" };
    output.line(&format!("files:    {} in {} {directories}", view.file_count, view.directory_count))?;
    output.line(&format!("blobs:    {}, and {} to be deleted", view.blob_count, view.garbage_blob_count))?;
    output.line(&format!("revision: {}", view.revision))?;
    output.line(&format!("cluster:  {}", view.cluster_id))?;
    output.flush()
}

/// Whom a check is about; not all of a hundred groups.
fn subjects(subjects: &[String]) -> String {
    const NAMED_MAX: usize = 8;
    let named: Vec<&str> = subjects.iter().take(NAMED_MAX).map(String::as_str).collect();
    match subjects.len().saturating_sub(NAMED_MAX) {
        0 if named.is_empty() => String::new(),
        0 => format!(": {}", named.join(", ")),
        more => format!(": {} and {more} more", named.join(", ")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerView {
    server_id: String,
    kind: &'static str,
    state: &'static str,
    address: String,
    external_address: String,
    zone: String,
    disk_used_bytes: u64,
    disk_total_bytes: u64,
    blob_count: u64,
    stored_bytes: u64,
    group_count: u32,
    lead_count: u32,
    draining: bool,
    #[serde(serialize_with = "as_rfc3339")]
    last_seen_time: u64,
    software_version: String,
    /// Why its store takes no writes; empty: it does.
    read_only_reason: String,
}

pub fn state_text(state: ServerState) -> &'static str {
    match state {
        ServerState::Up => "up",
        ServerState::Down => "down",
        ServerState::Draining => "draining",
    }
}

impl ServerView {
    fn new(kind: &'static str, server: &Server) -> Self {
        Self {
            server_id: server.server.to_string(),
            kind,
            state: state_text(server.state),
            address: server.address.clone(),
            external_address: server.external_address.clone(),
            zone: server.zone.clone(),
            disk_used_bytes: server.disk_used_bytes,
            disk_total_bytes: server.disk_total_bytes,
            blob_count: server.blob_count,
            stored_bytes: server.stored_bytes,
            group_count: server.group_count,
            lead_count: server.lead_count,
            draining: server.draining,
            last_seen_time: server.last_seen.unwrap_or_default().0,
            software_version: server.software_version.clone(),
            read_only_reason: server.read_only_reason.clone(),
        }
    }

    fn state_cell(&self) -> String {
        let drained = self.draining && self.group_count == 0 && self.blob_count == 0;
        let also = [
            (self.draining && self.state == "down", "draining"),
            (drained, "empty"),
            (!self.read_only_reason.is_empty(), "read only"),
        ];
        let also = also.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word);
        std::iter::once(self.state).chain(also).collect::<Vec<_>>().join(", ")
    }

    fn of_store(&self, text: String) -> String {
        if self.kind == "fileserver" { text } else { "-".to_owned() }
    }
}

impl Row for ServerView {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::left("KIND"),
        Column::left("STATE"),
        Column::left("ADDRESS"),
        Column::left("EXTERNAL").wide(),
        Column::left("ZONE"),
        Column::right("USED"),
        Column::right("TOTAL"),
        Column::right("BLOBS"),
        Column::right("GROUPS"),
        Column::right("LEADS"),
        Column::right("STORED").wide(),
        Column::left("LAST SEEN").wide(),
        Column::left("VERSION").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.server_id.clone(),
            self.kind.to_owned(),
            self.state_cell(),
            self.address.clone(),
            table::or_dash(&self.external_address),
            table::or_dash(&self.zone),
            self.of_store(table::binary_size(self.disk_used_bytes)),
            self.of_store(table::binary_size(self.disk_total_bytes)),
            self.of_store(self.blob_count.to_string()),
            self.of_store(self.group_count.to_string()),
            self.of_store(self.lead_count.to_string()),
            self.of_store(table::binary_size(self.stored_bytes)),
            table::short_time(self.last_seen_time),
            table::or_dash(&self.software_version),
        ]
    }

    fn name(&self) -> String {
        self.server_id.clone()
    }
}

pub async fn servers(context: &mut Context, command: ServersCommand) -> Result<()> {
    match command {
        ServersCommand::Ls => {}
        ServersCommand::Drain(arguments) => return administer::drain(context, arguments).await,
        ServersCommand::Resume(arguments) => return administer::resume(context, arguments).await,
        ServersCommand::Rm(arguments) => return administer::remove(context, arguments).await,
    }
    let client = context.client().await?;
    let servers = client.servers().await?;
    context.output.all(servers.by_kind().map(|(kind, server)| ServerView::new(kind, server)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupView {
    group: u32,
    epoch: u64,
    primary: Option<String>,
    in_sync: Vec<String>,
    members: Vec<String>,
    leaving: Option<String>,
    arriving: Option<String>,
}

impl From<&Group> for GroupView {
    fn from(group: &Group) -> Self {
        Self {
            group: group.group.0,
            epoch: group.epoch.0,
            primary: group.primary.as_ref().map(ToString::to_string),
            in_sync: group.in_sync.iter().map(ToString::to_string).collect(),
            members: group.members.iter().map(ToString::to_string).collect(),
            leaving: group.replacement.as_ref().map(|replacement| replacement.leaving.to_string()),
            arriving: group.replacement.as_ref().map(|replacement| replacement.arriving.to_string()),
        }
    }
}

impl Row for GroupView {
    const COLUMNS: &'static [Column] = &[
        Column::right("GROUP"),
        Column::right("EPOCH"),
        Column::left("PRIMARY"),
        Column::left("IN SYNC"),
        Column::left("MEMBERS"),
        Column::left("MOVE"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.group.to_string(),
            self.epoch.to_string(),
            table::or_dash(self.primary.clone().unwrap_or_default()),
            table::or_dash(self.in_sync.join(",")),
            table::or_dash(self.members.join(",")),
            match (&self.leaving, &self.arriving) {
                (Some(leaving), Some(arriving)) => format!("{leaving} to {arriving}"),
                _ => "-".to_owned(),
            },
        ]
    }

    fn name(&self) -> String {
        self.group.to_string()
    }
}

pub async fn groups(context: &mut Context, arguments: GroupsArguments) -> Result<()> {
    let client = context.client().await?;
    let groups = client.groups().await?;
    let shown = groups.iter().filter(|group| !arguments.short || group.in_sync.len() < group.place_count());
    context.output.all(shown.map(GroupView::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::output::{Format, tests::printed},
        types::{Epoch, GroupId, Revision},
    };

    fn a_status() -> ClusterStatus {
        ClusterStatus {
            cluster_id: "c".to_owned(),
            revision: Revision(4),
            health: Health::Warn,
            checks: vec![HealthCheck {
                code: "SERVER_DOWN".to_owned(),
                health: Health::Warn,
                summary: "1 server is down".to_owned(),
                hint: "start it".to_owned(),
                subjects: vec!["fs-b".to_owned()],
            }],
            file_count: 1,
            directory_count: 2,
            blob_count: 3,
            garbage_blob_count: 0,
            server_count: 3,
            server_up_count: 2,
            group_count: 64,
            group_full_count: 0,
            copies: 3,
            min_in_sync: 2,
            moving_group_count: 0,
            rebalancing: false,
        }
    }

    #[test]
    fn a_status_tells_what_is_wrong_and_what_to_do() {
        let (out, _) = printed(Format::Table, |output| {
            print_status(output, Health::Warn, &StatusView::from(&a_status())).unwrap();
        });
        assert!(out.starts_with("health:   WARN\n  SERVER_DOWN 1 server is down: fs-b\n    start it\n"), "{out}");
        let value = serde_json::to_value(StatusView::from(&a_status())).unwrap();
        assert_eq!((&value["health"], &value["minInSync"]), (&"WARN".into(), &2.into()));
    }

    #[test]
    fn many_subjects_are_counted() {
        let many: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(subjects(&many), ": 0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
        assert_eq!(subjects(&[]), "");
    }

    #[test]
    fn a_group_without_a_primary_has_a_dash() {
        let group = Group {
            group: GroupId(1),
            epoch: Epoch(2),
            members: vec!["fs-a".parse().unwrap(), "fs-b".parse().unwrap()],
            in_sync: vec!["fs-a".parse().unwrap()],
            primary: None,
            replacement: None,
        };
        assert_eq!(GroupView::from(&group).cells(), ["1", "2", "-", "fs-a", "fs-a,fs-b", "-"]);
    }
}
