//! A way to a server on which one direction can be cut: connections stay open, and what was sent that way arrives when the cut is
//! over, as on a network that loses packets and sends them again.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

const BUFFER_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    FromServer,
}

/// What does not pass.
#[derive(Clone, Copy, Debug)]
struct Cut {
    direction: Direction,
    /// Only on the connections of this process.
    of: Option<u32>,
}

pub struct Gate {
    cut: watch::Sender<Option<Cut>>,
    /// Bytes that a cut has held up.
    held: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Gate {
    /// Open.
    pub async fn start(address: &str, server: String) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free address");
        let (cut, is_cut) = watch::channel(None);
        let held = Arc::default();
        let passing = pass(listener, server, is_cut, Arc::clone(&held));
        Self { cut, held, task: tokio::spawn(passing) }
    }

    pub fn cut(&self, direction: Direction) {
        self.cut.send_replace(Some(Cut { direction, of: None }));
    }

    /// Only for the process that has connected.
    pub fn cut_of(&self, direction: Direction, pid: u32) {
        self.cut.send_replace(Some(Cut { direction, of: Some(pid) }));
    }

    /// A cut that held nothing up has cut nothing.
    pub fn expect_held(&self) {
        let held = self.held.load(Ordering::SeqCst);
        println!("the cut held {held} bytes up");
        assert!(held > 0, "nothing has come to the cut");
    }

    pub fn heal(&self) {
        self.cut.send_replace(None);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(listener: TcpListener, server: String, is_cut: watch::Receiver<Option<Cut>>, held: Arc<AtomicU64>) {
    let mut passing = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, peer)) = listener.accept() => {
                let (server, is_cut, held) = (server.clone(), is_cut.clone(), Arc::clone(&held));
                passing.spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else { return };
                    let whose = inode(peer);
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    // However one way ends, the other does too.
                    tokio::select! {
                        () = relay(near_in, far_out, Direction::ToServer, whose.as_deref(), is_cut.clone(), &held) => {}
                        () = relay(far_in, near_out, Direction::FromServer, whose.as_deref(), is_cut.clone(), &held) => {}
                    }
                });
            }
            Some(_) = passing.join_next() => {}
        }
    }
}

async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    whose: Option<&str>,
    mut is_cut: watch::Receiver<Option<Cut>>,
    held: &AtomicU64,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let passes = |cut: &Option<Cut>| {
            !cut.is_some_and(|cut| {
                cut.direction == direction && cut.of.is_none_or(|pid| whose.is_some_and(|inode| has_open(pid, inode)))
            })
        };
        if !passes(&is_cut.borrow()) {
            held.fetch_add(length as u64, Ordering::SeqCst);
        }
        if is_cut.wait_for(passes).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// The kernel's number of the socket at the other end of a connection from this machine.
fn inode(peer: SocketAddr) -> Option<String> {
    let SocketAddr::V4(peer) = peer else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(peer.ip().octets()), peer.port());
    let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
    let found = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|it| it.get(1) == Some(&local.as_str()));
    found.and_then(|fields| fields.get(9).map(|inode| format!("socket:[{inode}]")))
}

fn has_open(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.to_str() == Some(socket)))
}
