//! `Sweeper`: closes connections that have been idle for too long, and those that no request can find any more, because a reload
//! changed how functions are reached, or a name has lost an address.
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
use tokio::time::{sleep, timeout};

use super::Gateway;
use crate::snapshot::Snapshot;
use crate::upstream::{Retired, SWEEP_EVERY, Upstream};

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

    /// Three sweeps, of which none waits for another.
    pub async fn run(self, reloads: mpsc::Receiver<Vec<Arc<Upstream>>>) {
        tokio::join!(self.sweep_idle(), self.sweep_surplus(), self.sweep_retired(reloads));
    }

    /// What has been idle for as long as it may be.
    async fn sweep_idle(&self) {
        loop {
            sleep(SWEEP_EVERY).await;
            for upstream in self.snapshot.load_full().upstreams() {
                for stale in upstream.stale() {
                    self.close(stale.peers.clone()).await;
                }
            }
        }
    }

    /// What a burst has left behind.
    async fn sweep_surplus(&self) {
        loop {
            sleep(SWEEP_EVERY).await;
            for upstream in self.snapshot.load_full().upstreams() {
                self.close(upstream.unneeded()).await;
            }
        }
    }

    /// What no route leads to any more: at once, and again for as long as a request from before can use it.
    async fn sweep_retired(&self, mut reloads: mpsc::Receiver<Vec<Arc<Upstream>>>) {
        let (mut upstreams, mut addresses) = (Vec::new(), Vec::new());
        loop {
            match timeout(ROUND, reloads.recv()).await {
                Ok(Some(replaced)) => upstreams.extend(replaced),
                // There are no more reloads when the process ends, and what is left here ends with it.
                Ok(None) => return,
                Err(_) => {}
            }
            for upstream in self.snapshot.load_full().upstreams() {
                addresses.extend(upstream.departed());
            }
            upstreams.retain_mut(|upstream| {
                // Asked first: nobody who has gone by now finds another address after this.
                let is_reachable = Arc::get_mut(upstream).is_none();
                addresses.extend(upstream.retire());
                is_reachable
            });
            for address in &mut addresses {
                self.close(address.peers()).await;
            }
            addresses.retain(|address: &Retired| !address.is_over());
        }
    }

    async fn close(&self, peers: Vec<HttpPeer>) {
        for peer in peers {
            // Nothing here waits for long; should it, the others must not.
            let _ = timeout(ROUND, self.close_one(peer)).await;
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
