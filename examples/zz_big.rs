use dfs::client::{Client, Options, Precondition, ReadOptions, WriteOptions};
use futures::TryStreamExt;
use tokio::io::AsyncReadExt;
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let mut o = Options::new(["127.0.0.1:17270"]);
    o.timeout = std::time::Duration::from_secs(900);
    let client = Client::connect(o).await?;
    match args[1].as_str() {
        "big" => {
            let n: u64 = args[3].parse()?;
            let path = args[2].parse()?;
            let start = std::time::Instant::now();
            let data = tokio::io::repeat(7).take(n << 20);
            let r = client
                .write(
                    &path,
                    WriteOptions::replace(Precondition {
                        fencing_token: None,
                        if_version: Some(dfs::types::Version(0)),
                    }),
                    data,
                )
                .await?;
            println!("write {:?} {:?}", r.size, start.elapsed());
            let start = std::time::Instant::now();
            let mut reader = client.read(&path, ReadOptions::default()).await?;
            let mut total = 0u64;
            while let Some(b) = reader.try_next().await? {
                total += b.len() as u64;
            }
            println!("read {} {:?}", total, start.elapsed());
        }
        "appends" => {
            let n: usize = args[3].parse()?;
            let path: dfs::client::Path = args[2].parse()?;
            let mut worst = std::time::Duration::ZERO;
            let begin = std::time::Instant::now();
            for i in 0..n {
                let start = std::time::Instant::now();
                match client.write_bytes(&path, WriteOptions::append(), format!("line {i}\n")).await {
                    Ok(r) => {
                        let e = start.elapsed();
                        if e > worst {
                            worst = e;
                        }
                        if e.as_millis() > 500 {
                            println!("{:?} {i}: {:?} v{} {:?}", begin.elapsed(), e, r.version, r.servers);
                        }
                    }
                    Err(e) => println!("{:?} {i}: failed {e} after {:?}", begin.elapsed(), start.elapsed()),
                }
            }
            println!("{n} appends in {:?}, worst {:?}", begin.elapsed(), worst);
        }
        _ => {}
    }
    Ok(())
}
