//! Asking a running gateway, from outside, which configuration it serves.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;

/// Waits until the gateway at this admin address serves the configuration with this hash. An error says why it does not.
pub fn await_configuration(admin: SocketAddr, hash: &str, within: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let standing = ask(admin).and_then(|standing| judge(&standing, hash));
        match standing {
            Ok(Verdict::Serves) => return Ok(()),
            Ok(Verdict::Refused(faults)) => bail!("the running gateway refused this configuration: {faults}"),
            Ok(Verdict::NotYet) if Instant::now() >= deadline => {
                bail!("the running gateway does not serve this configuration after {within:?}")
            }
            Err(error) if Instant::now() >= deadline => return Err(error),
            Ok(Verdict::NotYet) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

enum Verdict {
    Serves,
    Refused(String),
    NotYet,
}

fn judge(standing: &Value, hash: &str) -> anyhow::Result<Verdict> {
    if standing["config_hash"] == hash {
        return Ok(Verdict::Serves);
    }
    let reload = &standing["last_reload"];
    if reload["result"] == "failure" && reload["config_hash"] == hash {
        let faults = reload["faults"].as_array().into_iter().flatten().filter_map(Value::as_str);
        return Ok(Verdict::Refused(faults.collect::<Vec<_>>().join("; ")));
    }
    Ok(Verdict::NotYet)
}

fn ask(admin: SocketAddr) -> anyhow::Result<Value> {
    let admin = reachable(admin);
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)
        .with_context(|| format!("no gateway answers at {admin}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz?verbose HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .take(LARGEST_ANSWER)
        .read_to_string(&mut answer)
        .with_context(|| format!("{admin} does not answer"))?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("{admin} does not speak HTTP"))?;
    serde_json::from_str(body).with_context(|| format!("{admin} is no fngate"))
}

/// Whoever listens on every address is reached over loopback.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST_ANSWER: u64 = 1 << 20;
