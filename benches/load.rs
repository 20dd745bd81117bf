//! The load generator, and the reader of what the load costs the process under it.
//!
//! ```text
//! load ports COUNT                                   addresses on loopback that are free now
//! load run ADDRESS CONNECTIONS REQUESTS [PID]        closed loop; prints `rps p50_us p99_us cpu_us rss_kib`, tab-separated
//! load idle ADDRESS CONNECTIONS PID                  idle keep-alive connections; prints bytes of memory per connection
//! ```
//!
//! A request that is not answered by 200 ends the program with an error: what failed must not look fast.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const REQUEST: &[u8] = b"GET /bench/World?a=1 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: load/1.0\r\n\
    Accept: */*\r\nAccept-Encoding: gzip, br\r\n\r\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ports", count] => ports(count.parse()?).await,
        ["run", address, connections, requests] => {
            run(address.parse()?, connections.parse()?, requests.parse()?, None).await
        }
        ["run", address, connections, requests, pid] => {
            run(address.parse()?, connections.parse()?, requests.parse()?, Some(Process(pid.parse()?))).await
        }
        ["idle", address, connections, pid] => {
            idle(address.parse()?, connections.parse()?, Process(pid.parse()?)).await
        }
        _ => bail!(
            "usage: load ports COUNT | run ADDRESS CONNECTIONS REQUESTS [PID] | idle ADDRESS CONNECTIONS PID"
        ),
    }
}

/// All are bound before the first is given up, so that they differ.
async fn ports(count: usize) -> anyhow::Result<()> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await?);
    }
    for listener in listeners {
        println!("{}", listener.local_addr()?);
    }
    Ok(())
}

async fn run(
    address: SocketAddr,
    connections: usize,
    requests: usize,
    process: Option<Process>,
) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(address).await?);
    }
    // Connections, pools and allocators are warm before anything counts.
    let (clients, _) = flood(clients, requests / 20 + connections).await?;
    let cpu_before = process.map(Process::cpu_time).transpose()?;
    let began = Instant::now();
    let (_, mut latencies) = flood(clients, requests).await?;
    let took = began.elapsed();

    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_micros();
    let rate = latencies.len() as f64 / took.as_secs_f64();
    print!("{rate:.0}\t{}\t{}", quantile(0.5), quantile(0.99));
    match process.zip(cpu_before) {
        Some((process, before)) => {
            let spent = process.cpu_time()?.saturating_sub(before);
            let each = spent.as_secs_f64() * 1e6 / latencies.len() as f64;
            println!("\t{each:.2}\t{}", process.memory()? / 1024);
        }
        None => println!("\t-\t-"),
    }
    Ok(())
}

/// Sends as many requests, each client one after the other. Returns the clients, and how long each request took.
async fn flood(clients: Vec<Client>, requests: usize) -> anyhow::Result<(Vec<Client>, Vec<Duration>)> {
    let left = Arc::new(AtomicUsize::new(requests));
    let mut workers = JoinSet::new();
    for mut client in clients {
        let left = Arc::clone(&left);
        workers.spawn(async move {
            let mut latencies = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let began = Instant::now();
                client.ask().await?;
                latencies.push(began.elapsed());
            }
            anyhow::Ok((client, latencies))
        });
    }
    let (mut clients, mut all) = (Vec::new(), Vec::with_capacity(requests));
    while let Some(worker) = workers.join_next().await {
        let (client, latencies) = worker??;
        clients.push(client);
        all.extend(latencies);
    }
    Ok((clients, all))
}

async fn idle(address: SocketAddr, connections: usize, process: Process) -> anyhow::Result<()> {
    // What the first connections set up once is not charged to those that follow.
    let mut clients = Vec::new();
    for _ in 0..connections / 10 {
        clients.push(Client::asked(address).await?);
    }
    let before = process.memory()?;
    for _ in 0..connections {
        clients.push(Client::asked(address).await?);
    }
    let grown = process.memory()?.saturating_sub(before);
    println!("{}", grown / connections as u64);
    // That they answer shows that they were open, and not given up, when the memory was read.
    for client in &mut clients {
        client.ask().await.context("an idle connection did not stay open")?;
    }
    Ok(())
}

struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, answer: Vec::new() })
    }

    async fn asked(address: SocketAddr) -> anyhow::Result<Self> {
        let mut client = Client::connect(address).await?;
        client.ask().await?;
        client.answer = Vec::new();
        Ok(client)
    }

    /// One request and its whole answer.
    async fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(REQUEST).await?;
        self.answer.clear();
        let end = loop {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection was closed early");
            if let Some(end) = length(&self.answer)? {
                break end;
            }
        };
        while self.answer.len() < end {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the answer was cut");
        }
        ensure!(self.answer.len() == end, "there is more than one answer");
        Ok(())
    }
}

/// The length of the answer that begins here, head and body; `None` while its head is not complete.
fn length(answer: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head])?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "not answered by 200: {text}");
    let body = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("the answer has no length")?;
    Ok(Some(head + 4 + body.1.parse::<usize>()?))
}

/// A process whose costs are read from /proc.
#[derive(Clone, Copy)]
struct Process(u32);

impl Process {
    /// In user mode and in the kernel, of all its threads, those that have ended too.
    fn cpu_time(self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).context("the process is gone")?;
        // The second field is the command in parentheses, and may hold blanks; utime and stime are fields 14 and 15.
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let mut field = || fields.next().context("/proc/PID/stat is too short");
        let ticks = field()?.parse::<u64>()? + field()?.parse::<u64>()?;
        Ok(TICK * u32::try_from(ticks)?)
    }

    /// Resident memory in bytes.
    fn memory(self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).context("the process is gone")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib = line.trim().strip_suffix("kB").context("VmRSS is not in kB")?.trim();
        Ok(kib.parse::<u64>()? * 1024)
    }
}

/// The unit of /proc/PID/stat: user space sees a clock of 100 Hz, whatever the kernel's own is.
const TICK: Duration = Duration::from_millis(10);
