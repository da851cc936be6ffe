//! Which servers a local cluster has, and how each is started.
//!
//! Nothing is started here and nothing is looked at, so that the whole plan can be checked in a test.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Copies of every byte where there are enough file servers for them.
const COPIES_MAX: u32 = 3;
/// Servers that must hold a write where there are enough.
const MIN_IN_SYNC_MAX: u32 = 2;
/// Nodes of a service of which one may die, and how far apart their ports are.
const NODES_HA: u16 = 3;
const NODE_PORTS: u16 = 100;
/// From the Directory's port to the Lock service's.
const LOCK_OFFSET: u16 = 1;
/// File servers are named by the letters.
pub const FILESERVERS_MAX: u32 = 26;

/// What is fixed when a cluster is made, and must be the same at every later start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    /// File servers among which the groups were placed.
    pub initial_fileservers: u32,
    pub copies: u32,
    pub min_in_sync: u32,
    /// Directory nodes; in an older record there was one.
    #[serde(default = "one")]
    pub directories: u16,
    /// Lock nodes; in an older record there was one.
    #[serde(default = "one")]
    pub locks: u16,
}

fn one() -> u16 {
    1
}

impl Shape {
    pub fn new(fileservers: u32) -> Self {
        Self {
            initial_fileservers: fileservers,
            copies: fileservers.min(COPIES_MAX),
            min_in_sync: fileservers.min(MIN_IN_SYNC_MAX),
            directories: one(),
            locks: one(),
        }
    }

    /// Any one node of the Directory and any one of the Lock service may die.
    pub fn highly_available(self) -> Self {
        Self { directories: NODES_HA, locks: NODES_HA, ..self }
    }
}

/// One server process to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    /// Its id in the cluster, and the name of its folder and log.
    pub name: String,
    /// The binary.
    pub program: &'static str,
    /// The service whose health tells that it serves.
    pub service: &'static str,
    pub address: SocketAddr,
    pub arguments: Vec<OsString>,
    pub log: PathBuf,
}

/// Directory and Lock first, then the file servers, on ports one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub servers: Vec<ServerPlan>,
}

impl Plan {
    /// None where the ports would run past the last one.
    pub fn new(data: &Path, base_port: u16, shape: Shape, fileservers: u32) -> Option<Self> {
        let last_offset = u16::try_from(fileservers.checked_add(1)?).ok()?;
        let further = shape.directories.saturating_sub(1);
        let further_locks = shape.locks.saturating_sub(1);
        let last_lock = further_locks.checked_mul(NODE_PORTS)?.checked_add(LOCK_OFFSET)?;
        base_port.checked_add(last_offset.max(further.checked_mul(NODE_PORTS)?).max(last_lock))?;
        let address = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, base_port.saturating_add(offset)));
        let first = address(0).to_string();
        let nodes: Vec<String> = (0..=further).map(|number| address(number * NODE_PORTS).to_string()).collect();
        let directory = nodes.join(",");

        let shape_arguments = [
            ("--copies", shape.copies),
            ("--min-in-sync", shape.min_in_sync),
            ("--initial-fileservers", shape.initial_fileservers),
        ];
        let shape_arguments =
            || shape_arguments.iter().flat_map(|(flag, value)| [(*flag).into(), value.to_string().into()]);
        let mut servers = vec![
            server(data, "directory-1", Kind::Directory, address(0)).with(shape_arguments()),
            server(data, "lock-1", Kind::Lock, address(LOCK_OFFSET))
                .with(["--directory".into(), directory.clone().into()]),
        ];
        for (letter, offset) in ('a'..='z').zip(2..=last_offset) {
            servers.push(
                server(data, &format!("fileserver-{letter}"), Kind::FileServer, address(offset))
                    .with(["--directory".into(), directory.clone().into()]),
            );
        }
        for number in 1..=further {
            let name = format!("directory-{}", number + 1);
            servers.push(
                server(data, &name, Kind::Directory, address(number * NODE_PORTS))
                    .with(shape_arguments())
                    .with(["--join".into(), first.clone().into()]),
            );
        }
        let first_lock = address(LOCK_OFFSET).to_string();
        for number in 1..=further_locks {
            let name = format!("lock-{}", number + 1);
            servers.push(
                server(data, &name, Kind::Lock, address(number * NODE_PORTS + LOCK_OFFSET))
                    .with(["--directory".into(), directory.clone().into()])
                    .with(["--join".into(), first_lock.clone().into()]),
            );
        }
        Some(Self { servers })
    }

    /// Where clients connect; several with commas.
    pub fn directory(&self) -> String {
        let directories = self.servers.iter().filter(|server| server.program == "dfs-directory");
        directories.map(|server| server.address.to_string()).collect::<Vec<_>>().join(",")
    }
}

enum Kind {
    Directory,
    Lock,
    FileServer,
}

fn server(data: &Path, name: &str, kind: Kind, address: SocketAddr) -> ServerPlan {
    let (program, service) = match kind {
        Kind::Directory => ("dfs-directory", "dfs.v1.Directory"),
        Kind::Lock => ("dfs-lock", "dfs.v1.Lock"),
        Kind::FileServer => ("dfs-fileserver", "dfs.v1.FileServer"),
    };
    ServerPlan {
        name: name.to_owned(),
        program,
        service,
        address,
        arguments: vec![
            "--id".into(),
            name.into(),
            "--data".into(),
            data.join(name).into(),
            "--listen".into(),
            address.to_string().into(),
        ],
        log: data.join("logs").join(format!("{name}.log")),
    }
}

impl ServerPlan {
    fn with(mut self, arguments: impl IntoIterator<Item = OsString>) -> Self {
        self.arguments.extend(arguments);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(server: &ServerPlan) -> String {
        let arguments: Vec<_> = server.arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        format!("{} {}", server.program, arguments.join(" "))
    }

    #[test]
    fn the_default_cluster_has_five_servers_on_neighbouring_ports() {
        let plan = Plan::new(Path::new("/d"), 7070, Shape::new(3), 3).expect("a plan");
        let lines: Vec<_> = plan.servers.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "dfs-directory --id directory-1 --data /d/directory-1 --listen 127.0.0.1:7070 --copies 3 --min-in-sync 2 --initial-fileservers 3",
                "dfs-lock --id lock-1 --data /d/lock-1 --listen 127.0.0.1:7071 --directory 127.0.0.1:7070",
                "dfs-fileserver --id fileserver-a --data /d/fileserver-a --listen 127.0.0.1:7072 --directory 127.0.0.1:7070",
                "dfs-fileserver --id fileserver-b --data /d/fileserver-b --listen 127.0.0.1:7073 --directory 127.0.0.1:7070",
                "dfs-fileserver --id fileserver-c --data /d/fileserver-c --listen 127.0.0.1:7074 --directory 127.0.0.1:7070",
            ]
        );
        assert_eq!(plan.directory(), "127.0.0.1:7070");
    }

    #[test]
    fn a_highly_available_cluster_has_two_more_nodes_of_directory_and_lock_that_join_the_first() {
        let plan = Plan::new(Path::new("/d"), 7070, Shape::new(3).highly_available(), 3).expect("a plan");
        assert_eq!(plan.servers.len(), 9);
        let further: Vec<_> = plan.servers.iter().skip(5).map(line).collect();
        assert_eq!(
            further,
            [
                "dfs-directory --id directory-2 --data /d/directory-2 --listen 127.0.0.1:7170 --copies 3 --min-in-sync 2 --initial-fileservers 3 --join 127.0.0.1:7070",
                "dfs-directory --id directory-3 --data /d/directory-3 --listen 127.0.0.1:7270 --copies 3 --min-in-sync 2 --initial-fileservers 3 --join 127.0.0.1:7070",
                "dfs-lock --id lock-2 --data /d/lock-2 --listen 127.0.0.1:7171 --directory 127.0.0.1:7070,127.0.0.1:7170,127.0.0.1:7270 --join 127.0.0.1:7071",
                "dfs-lock --id lock-3 --data /d/lock-3 --listen 127.0.0.1:7271 --directory 127.0.0.1:7070,127.0.0.1:7170,127.0.0.1:7270 --join 127.0.0.1:7071",
            ]
        );
        assert_eq!(plan.directory(), "127.0.0.1:7070,127.0.0.1:7170,127.0.0.1:7270");
        let lock = line(&plan.servers[1]);
        assert!(lock.ends_with("--directory 127.0.0.1:7070,127.0.0.1:7170,127.0.0.1:7270"), "{lock}");
        let shape = Shape::new(3).highly_available();
        assert!(Plan::new(Path::new("/d"), 65_400, shape, 3).is_none(), "no room for the last node's port");
    }

    #[test]
    fn copies_are_no_more_than_there_are_file_servers() {
        let shape = |fileservers| (Shape::new(fileservers).copies, Shape::new(fileservers).min_in_sync);
        assert_eq!([shape(1), shape(2), shape(3), shape(7)], [(1, 1), (2, 2), (3, 2), (3, 2)]);
    }

    #[test]
    fn ports_past_the_last_one_are_no_plan() {
        let ends_at =
            |base_port| Plan::new(Path::new("/d"), base_port, Shape::new(3), 3).map(|plan| plan.servers.len());
        assert_eq!(ends_at(65_531), Some(5));
        assert_eq!(ends_at(65_532), None);
    }
}
