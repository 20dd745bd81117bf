//! One endpoint of an upstream and the addresses it stands for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::resolve::{Host, Resolver};
use super::slots::Slots;
use crate::values::HostPort;

#[derive(Debug)]
pub(super) struct Endpoint {
    port: u16,
    /// Slots per address.
    pool: u32,
    /// `None` when the file gives an address instead of a name.
    host: Option<Arc<Host>>,
    known: ArcSwap<Known>,
}

/// Addresses as of one answer of the resolver.
#[derive(Debug)]
struct Known {
    answer: Arc<Vec<IpAddr>>,
    addresses: Arc<Vec<Arc<Address>>>,
}

#[derive(Debug)]
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    pub(super) slots: Arc<Slots>,
}

impl Endpoint {
    pub(super) fn new(address: &HostPort, pool: u32, resolver: &Resolver) -> Self {
        let (answer, host) = match address.host.parse::<IpAddr>() {
            Ok(ip) => (Arc::new(vec![ip]), None),
            Err(_) => (Arc::default(), Some(resolver.host(&address.host))),
        };
        let endpoint = Endpoint {
            port: address.port,
            pool,
            host,
            known: ArcSwap::from_pointee(Known { answer: Arc::default(), addresses: Arc::default() }),
        };
        endpoint.learn(answer);
        endpoint
    }

    pub(super) fn addresses(&self) -> Arc<Vec<Arc<Address>>> {
        if let Some(host) = &self.host {
            let answer = host.addresses();
            if !Arc::ptr_eq(&answer, &self.known.load().answer) {
                self.learn(Guard::into_inner(answer));
            }
        }
        Arc::clone(&self.known.load().addresses)
    }

    pub(super) async fn asked(&self) {
        if let Some(host) = &self.host {
            host.asked().await;
        }
    }

    pub(super) fn unresolved_name(&self) -> Option<&str> {
        let host = self.host.as_deref()?;
        host.addresses().is_empty().then(|| host.name())
    }

    /// Takes over a new answer. An address that was known keeps its slots, so that connections in use stay counted.
    fn learn(&self, answer: Arc<Vec<IpAddr>>) {
        let known = self.known.load();
        let addresses = answer.iter().map(|ip| {
            let socket = SocketAddr::new(*ip, self.port);
            let old = known.addresses.iter().find(|address| address.socket == socket);
            old.cloned().unwrap_or_else(|| Arc::new(Address { socket, slots: Slots::new(self.pool) }))
        });
        let addresses = Arc::new(addresses.collect());
        self.known.store(Arc::new(Known { answer, addresses }));
    }
}
