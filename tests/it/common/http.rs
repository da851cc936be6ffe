//! Just enough HTTP to read what is there for those who do not speak gRPC.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::within_deadline;

/// An address that nobody listened on a moment ago.
pub async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("the port's address").to_string()
}

/// Status and body; `None` when nobody answers.
pub async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    within_deadline("an answer over HTTP", exchange).await
}

/// The value of a series, as it is on the page.
pub async fn metric(address: &str, series: &str) -> Option<f64> {
    let (status, page) = get(address, "/metrics").await?;
    assert_eq!(status, 200);
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
