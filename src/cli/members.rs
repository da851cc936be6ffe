//! The nodes of a consensus group, the Directory's or the Lock service's: `members ls|promote|remove|transfer`.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::{
    context::Context,
    error::Result,
    output::Row,
    table::{self, Column},
};
use crate::client::{GroupKind, Member};

/// Whose nodes
#[derive(Debug, clap::Args)]
pub struct Members {
    /// The service whose nodes are meant
    #[arg(long, value_enum, default_value_t, global = true)]
    service: Service,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Service {
    #[default]
    Directory,
    Lock,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the nodes; a new one joins by itself when it is started with --join
    #[command(visible_alias = "list")]
    Ls,
    /// Wait until a node that has joined has caught up and votes
    Promote(Arguments),
    /// Take a node out of the group; it need not be alive
    Remove(Arguments),
    /// Make a node the leader
    Transfer(Arguments),
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The node's server id
    #[arg(value_name = "SERVER")]
    server: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberView {
    server_id: String,
    node_id: String,
    role: &'static str,
    /// It found its log damaged or gone, and takes part under a new id.
    rejoined: bool,
    address: String,
    external_address: String,
    log_index: Option<u64>,
    silent_ms: Option<u64>,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        let role = match (member.is_leader, member.is_voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        Self {
            server_id: member.server,
            node_id: format!("{:016x}", member.node_id),
            role,
            rejoined: member.is_rejoined,
            address: member.address,
            external_address: member.external_address,
            log_index: member.log_index,
            silent_ms: member.silence.map(|silence| silence.as_millis() as u64),
        }
    }
}

impl Row for MemberView {
    const COLUMNS: &'static [Column] = &[
        Column::left("SERVER"),
        Column::left("ROLE"),
        Column::left("ADDRESS"),
        Column::left("EXTERNAL").wide(),
        Column::right("LOG"),
        Column::right("SILENT"),
        Column::left("NODE").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<u64>| table::or_dash(number.map(|number| number.to_string()).unwrap_or_default());
        vec![
            self.server_id.clone(),
            match (self.role, self.rejoined) {
                ("learner", true) => "learner (log lost)".to_owned(),
                (role, _) => role.to_owned(),
            },
            self.address.clone(),
            table::or_dash(&self.external_address),
            number(self.log_index),
            table::or_dash(self.silent_ms.map(|millis| format!("{millis} ms")).unwrap_or_default()),
            self.node_id.clone(),
        ]
    }

    fn name(&self) -> String {
        self.server_id.clone()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangedView<'a> {
    server_id: &'a str,
    change: &'static str,
}

pub async fn run(context: &mut Context, Members { service, command }: Members) -> Result<()> {
    let client = context.client().await?;
    let of = match service {
        Service::Directory => GroupKind::Directory,
        Service::Lock => GroupKind::Lock,
    };
    let (server, change) = match &command {
        Command::Ls => {
            let members = client.members(of).await?;
            return context.output.all(members.into_iter().map(MemberView::from));
        }
        Command::Promote(Arguments { server }) => (server, client.promote_member(of, server).await.map(|()| "votes")?),
        Command::Remove(Arguments { server }) => {
            (server, client.remove_member(of, server).await.map(|()| "is no member any more")?)
        }
        Command::Transfer(Arguments { server }) => {
            (server, client.transfer_leadership(of, server).await.map(|()| "leads")?)
        }
    };
    context.output.done(&ChangedView { server_id: server, change }, server, &format!("{server} {change}"))
}
