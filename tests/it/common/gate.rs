//! A way to a server that can be shut: connections through it break, and new ones are refused.

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub struct Gate {
    pub address: String,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Gate {
    /// Open.
    pub async fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("the port's address").to_string();
        let (open, opened) = watch::channel(true);
        let task = tokio::spawn(pass(listener, target.to_owned(), opened));
        Self { address, open, task }
    }

    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(listener: TcpListener, target: String, opened: watch::Receiver<bool>) {
    let mut passing = JoinSet::new();
    loop {
        let Ok((mut near, _)) = listener.accept().await else { continue };
        let (target, mut opened) = (target.clone(), opened.clone());
        passing.spawn(async move {
            if !*opened.borrow() {
                return;
            }
            let Ok(mut far) = TcpStream::connect(target).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = opened.wait_for(|open| !open) => {}
            }
        });
    }
}
