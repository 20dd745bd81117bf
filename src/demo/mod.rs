//! The sample functions behind `fngate demo`, and the configuration and words that go with them.
//!
//! Owns small HTTP servers on loopback ports that answer the way each platform answers; tests use them as
//! origins. It must never look into the gateway: what it says to fngate goes through a socket or through the
//! text of a configuration file, as with any other function.

mod aws_lambda;
mod azure_functions;
mod knative;
mod openfaas;
mod openfunction;
mod openwhisk;
mod plain;
mod samples;
mod serve;
mod signature;
mod timed;

use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use aws_lambda::API_KEY as AWS_API_KEY;
pub use azure_functions::APP_KEY as AZURE_KEY;
pub use knative::DOMAIN as KNATIVE_DOMAIN;
pub use openwhisk::SERVICE_TOKEN as OPENWHISK_TOKEN;
pub use samples::{Group, Sample, banner, config, samples};
pub use signature::{ACCESS_KEY as AWS_ACCESS_KEY, REGION as AWS_REGION, SECRET_KEY as AWS_SECRET_KEY};

/// The running sample functions. They stop, open connections included, when this is dropped.
#[derive(Debug)]
pub struct Functions {
    /// A function server as OpenFunction's frameworks start it.
    pub openfunction: SocketAddr,
    /// The part of OpenWhisk's API that invokes actions; asks for [`OPENWHISK_TOKEN`].
    pub openwhisk: SocketAddr,
    /// An ingress with services of namespace `default` and domain [`KNATIVE_DOMAIN`].
    pub knative: SocketAddr,
    /// Lambda's API in [`AWS_REGION`], which asks for signatures with [`AWS_ACCESS_KEY`] and [`AWS_SECRET_KEY`], and below
    /// `/prod` an API of API Gateway, which asks for [`AWS_API_KEY`].
    pub aws_lambda: SocketAddr,
    /// An app that asks for [`AZURE_KEY`].
    pub azure_functions: SocketAddr,
    /// OpenFaaS' gateway.
    pub openfaas: SocketAddr,
    /// A server of no platform, which answers with the request as it arrived.
    pub plain: SocketAddr,
    _servers: JoinSet<()>,
}

/// Starts every sample function on a loopback port that the system chooses.
pub async fn start() -> anyhow::Result<Functions> {
    let mut servers = JoinSet::new();
    let ingress = knative::Ingress::default();
    Ok(Functions {
        openfunction: host(&mut servers, "OpenFunction", openfunction::respond).await?,
        openwhisk: host(&mut servers, "OpenWhisk", openwhisk::respond).await?,
        knative: host(&mut servers, "Knative", move |request| ready(ingress.respond(&request))).await?,
        aws_lambda: host(&mut servers, "AWS Lambda", aws_lambda::respond).await?,
        azure_functions: host(&mut servers, "Azure Functions", |request| {
            ready(azure_functions::respond(&request))
        })
        .await?,
        openfaas: host(&mut servers, "OpenFaaS", |request| ready(openfaas::respond(&request))).await?,
        plain: host(&mut servers, "plain HTTP", plain::respond).await?,
        _servers: servers,
    })
}

async fn host<F, A>(servers: &mut JoinSet<()>, what: &str, respond: F) -> anyhow::Result<SocketAddr>
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = serve::Reply> + Send + 'static,
{
    let (address, listener) = bind(what).await?;
    servers.spawn(serve::serve(listener, IDLE, respond));
    Ok(address)
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
