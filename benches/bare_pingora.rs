//! What the gateway is compared with: the smallest proxy that Pingora's documentation would have one write.
//!
//! Sets three request headers (Host, Authorization, X-Forwarded-For), keeps connections on both sides, and does nothing else: no
//! routes, no limits, no time-outs, no log, no metrics. It uses the gateway's allocator, so that a difference is the code's.
//!
//! `bare_pingora LISTEN UPSTREAM THREADS`

use std::net::SocketAddr;

use anyhow::Context;
use async_trait::async_trait;
use mimalloc::MiMalloc;
use pingora::http::RequestHeader;
use pingora::prelude::HttpPeer;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

struct Proxy {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> pingora::Result<()> {
        request.insert_header("Host", "function.example.com")?;
        request.insert_header("Authorization", "Basic dGVzdDp0ZXN0")?;
        if let Some(client) = session.client_addr().and_then(|address| address.as_inet()) {
            request.insert_header("X-Forwarded-For", client.ip().to_string())?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, threads] = &arguments[..] else {
        anyhow::bail!("usage: bare_pingora LISTEN UPSTREAM THREADS")
    };
    let upstream = upstream.parse().context("the upstream is not an address with a port")?;
    let threads = threads.parse().context("the number of threads is none")?;

    // Ends at once when told to; a grace of minutes is for those who have clients.
    let conf = ServerConf {
        threads,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy { upstream });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
