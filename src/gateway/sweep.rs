//! `Sweeper`: closes connections that have been idle for too long, and those that no request can find any more, because a reload
//! changed how functions are reached, or a name has lost an address.
//!
//! Pingora's pools give connections out to those who connect, and to nobody else. So the sweeper does, and lets go of what it gets: with
//! the exchange's connector by itself, with the proxy's, which is the proxy's alone, by an errand. That goes through the phases like a
//! request, as far as the connection, and is neither counted nor written.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
use crate::upstream::{Retired, SWEEP_EVERY};

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

    /// Sweeps what has been idle for too long, and what each reload retires: at once, and again for as long as requests are under way
    /// there.
    pub async fn run(self, mut reloads: mpsc::Receiver<Vec<Retired>>) {
        let mut retired: Vec<Retired> = Vec::new();
        let mut looked_at = Instant::now();
        loop {
            let news = tokio::time::timeout(SWEEP_EVERY, reloads.recv()).await;
            let snapshot = self.snapshot.load_full();
            for upstream in snapshot.routes.values().map(|function| &function.upstream) {
                for stale in upstream.stale() {
                    self.close(stale.peers.clone()).await;
                }
                retired.extend(upstream.departed());
            }
            match news {
                Ok(Some(news)) => retired.extend(news),
                Ok(None) => return,
                Err(_) if looked_at.elapsed() < ROUND => continue,
                Err(_) => {}
            }
            for address in &mut retired {
                self.close(address.peers()).await;
            }
            retired.retain(|retired| !retired.is_over());
            looked_at = Instant::now();
        }
    }

    async fn close(&self, peers: Vec<HttpPeer>) {
        for peer in peers {
            // Nothing here waits for long; should it, the others must not.
            let _ = tokio::time::timeout(ROUND, self.close_one(peer)).await;
            // After a reload of thousands of routes, requests go first.
            tokio::task::yield_now().await;
        }
    }

    async fn close_one(&self, peer: HttpPeer) {
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
/// What the proxy wants to read before it does anything.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: errand\r\n\r\n";
