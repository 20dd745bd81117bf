//! The function behind the proxies that are measured: answers every request with the same 200, as fast as it can.
//!
//! Prints the address it listens on and serves until it is ended. It reads no body: what measures here sends none.

use std::io::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n\
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A peer that breaks off ends its own connection only.
            tokio::spawn(async move { serve(stream).await.ok() });
        }
    })
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(4096);
    while stream.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(ANSWER).await?;
        }
    }
    Ok(())
}
