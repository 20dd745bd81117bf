//! `Sweeper`: closes the idle connections that no request can find any more, because a reload changed how functions are reached, or a
//! name has lost an address.
//!
//! Pingora's pools give connections out to those who connect, and to nobody else. So the sweeper does, and lets go of what it gets: with
//! the exchange's connector by itself, with the proxy's, which is the proxy's alone, by an errand. That goes through the phases like a
//! request, as far as the connection, and is neither counted nor written.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::apps::HttpServerApp;
use pingora::connectors::http::Connector;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::upstreams::peer::HttpPeer;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};

use super::Gateway;
use crate::snapshot::Snapshot;
use crate::upstream::Retired;

/// A connection that is to be closed, if there is one.
pub(super) struct Errand(pub(super) Box<HttpPeer>);

pub struct Sweeper {
    proxy: Arc<HttpProxy<Gateway>>,
    connector: Arc<Connector>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    stopping: watch::Receiver<bool>,
}

impl Sweeper {
    pub fn new(
        proxy: Arc<HttpProxy<Gateway>>,
        connector: Arc<Connector>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Sweeper { proxy, connector, snapshot, stopping }
    }

    /// Sweeps what each reload retires, at once and again for as long as requests are under way there.
    pub async fn run(self, mut reloads: mpsc::Receiver<Vec<Retired>>) {
        let mut left: Vec<Retired> = Vec::new();
        loop {
            let round = if left.is_empty() { LOOK } else { ROUND };
            match tokio::time::timeout(round, reloads.recv()).await {
                Ok(Some(retired)) => left.extend(retired),
                Ok(None) => return,
                Err(_) => {
                    let snapshot = self.snapshot.load();
                    left.extend(snapshot.routes.values().flat_map(|function| function.upstream.departed()));
                }
            }
            for retired in &mut left {
                for peer in retired.peers() {
                    // Nothing here waits for long; should it, the others must not.
                    let _ = tokio::time::timeout(ROUND, self.close(peer)).await;
                    // After a reload of thousands of routes, requests go first.
                    tokio::task::yield_now().await;
                }
            }
            left.retain(|retired| !retired.is_over());
        }
    }

    async fn close(&self, peer: HttpPeer) {
        if let Ok((session, _)) = self.connector.get_http_session(&peer).await {
            self.connector.release_http_session(session, &peer, peer.options.idle_timeout).await;
        }
        let (mut client, server) = tokio::io::duplex(REQUEST.len());
        if client.write_all(REQUEST).await.is_err() {
            return;
        }
        let mut session = ServerSession::new_http1(Box::new(server));
        session.set_connection_user_context(Some(Box::new(Errand(Box::new(peer)))));
        self.proxy.process_new_http(session, &self.stopping).await;
    }
}

/// How soon after its request a connection is closed that was in use.
const ROUND: Duration = Duration::from_secs(1);
/// How soon an address is noticed that is gone.
const LOOK: Duration = Duration::from_secs(5);
/// What the proxy wants to read before it does anything.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: errand\r\n\r\n";
