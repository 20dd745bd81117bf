//! The sample functions behind `fngate demo`, and the configuration and words that go with them.
//!
//! Owns small HTTP servers on loopback ports that answer the way each platform answers; tests use them as
//! origins. It must never look into the gateway: what it says to fngate goes through a socket or through the
//! text of a configuration file, as with any other function.

mod openfunction;
mod openwhisk;
mod plain;
mod samples;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use openwhisk::SERVICE_TOKEN as OPENWHISK_TOKEN;
pub use samples::{Sample, banner, config, samples};

/// The running sample functions. They stop, open connections included, when this is dropped.
#[derive(Debug)]
pub struct Functions {
    /// A function server as OpenFunction's frameworks start it.
    pub openfunction: SocketAddr,
    /// The part of OpenWhisk's API that invokes actions; asks for [`OPENWHISK_TOKEN`].
    pub openwhisk: SocketAddr,
    /// A server of no platform, which answers with the request as it arrived.
    pub plain: SocketAddr,
    _servers: JoinSet<()>,
}

/// Starts every sample function on a loopback port that the system chooses.
pub async fn start() -> anyhow::Result<Functions> {
    let (openfunction, functions) = bind("OpenFunction").await?;
    let (openwhisk, actions) = bind("OpenWhisk").await?;
    let (plain, mirror) = bind("plain HTTP").await?;
    let mut servers = JoinSet::new();
    servers.spawn(serve::serve(functions, IDLE, openfunction::respond));
    servers.spawn(serve::serve(actions, IDLE, openwhisk::respond));
    servers.spawn(serve::serve(mirror, IDLE, plain::respond));
    Ok(Functions { openfunction, openwhisk, plain, _servers: servers })
}

async fn bind(what: &str) -> anyhow::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .with_context(|| format!("cannot open a loopback port for the {what} sample"))?;
    let address = listener.local_addr().with_context(|| format!("the {what} sample has no address"))?;
    Ok((address, listener))
}

/// Node's default, under which OpenFunction's functions run: shorter than the gateway's own `keepalive_timeout`,
/// so that the demo also lives through connections which the function closes first.
const IDLE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
