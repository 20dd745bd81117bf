//! One endpoint of an upstream and the addresses it stands for.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;

use super::idle::IdleLimit;
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
    /// Addresses that the name has lost, until somebody sees to their connections.
    departed: Mutex<Vec<Arc<Address>>>,
    denied: Arc<[IpNet]>,
}

/// Addresses as of one answer of the resolver.
#[derive(Debug)]
pub(super) struct Known {
    answer: Arc<Vec<IpAddr>>,
    pub(super) addresses: Arc<Vec<Arc<Address>>>,
}

#[derive(Debug)]
pub(super) struct Address {
    pub(super) socket: SocketAddr,
    pub(super) slots: Arc<Slots>,
    pub(super) idle_limit: IdleLimit,
    has_departed: AtomicBool,
}

impl Address {
    fn new(socket: SocketAddr, pool: u32) -> Self {
        Address {
            socket,
            slots: Slots::new(pool),
            idle_limit: IdleLimit::default(),
            has_departed: AtomicBool::new(false),
        }
    }

    /// True once: of those who notice together that no further request is meant to come here, one reports it.
    fn depart(&self) -> bool {
        !self.has_departed.swap(true, Ordering::AcqRel)
    }
}

impl Endpoint {
    pub(super) fn new(address: &HostPort, pool: u32, resolver: &Resolver, denied: Arc<[IpNet]>) -> Self {
        let literal = address.host.parse::<IpAddr>().ok();
        let known = Known { answer: Arc::new(literal.into_iter().collect()), addresses: Arc::default() };
        Endpoint {
            port: address.port,
            pool,
            host: literal.is_none().then(|| resolver.host(&address.host)),
            known: ArcSwap::from_pointee(known.located(address.port, pool, &denied)),
            departed: Mutex::default(),
            denied,
        }
    }

    pub(super) fn known(&self) -> Guard<Arc<Known>> {
        let known = self.known.load();
        match &self.host {
            Some(host) if !Arc::ptr_eq(&host.addresses(), &known.answer) => {
                self.learn(host);
                self.known.load()
            }
            _ => known,
        }
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

    /// All addresses that were not given up before.
    pub(super) fn give_up(&self) -> Vec<Arc<Address>> {
        let mut given_up = self.departed();
        given_up.extend(self.known().addresses.iter().filter(|address| address.depart()).cloned());
        given_up
    }

    /// The addresses that were lost since this was asked last.
    pub(super) fn departed(&self) -> Vec<Arc<Address>> {
        mem::take(&mut *self.departed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over the latest answer. Several requests may notice it at once. The answer is loaded after what is known, so that it
    /// is never older: a late request does not bring a former answer back.
    fn learn(&self, host: &Host) {
        let before = Arc::clone(&self.known.load().addresses);
        self.known.rcu(|known| {
            let answer = Guard::into_inner(host.addresses());
            if Arc::ptr_eq(&answer, &known.answer) {
                return Arc::clone(known);
            }
            let former = Known { answer, addresses: Arc::clone(&known.addresses) };
            Arc::new(former.located(self.port, self.pool, &self.denied))
        });
        for address in host.addresses().iter().filter(|address| is_denied(**address, &self.denied)) {
            log::warn!(
                "`{}` has the address {address}, at which no function may be (`deny_addresses`)",
                host.name()
            );
        }
        let now = Arc::clone(&self.known.load().addresses);
        let is_lost = |address: &&Arc<Address>| {
            !now.iter().any(|known| Arc::ptr_eq(known, address)) && address.depart()
        };
        let lost = before.iter().filter(is_lost).cloned();
        self.departed.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
    }
}

impl Known {
    /// An address that was known keeps its slots, so that connections in use stay counted, and what it said of itself.
    fn located(self, port: u16, pool: u32, denied: &[IpNet]) -> Self {
        let addresses = self.answer.iter().filter(|ip| !is_denied(**ip, denied)).map(|ip| {
            let socket = SocketAddr::new(*ip, port);
            let old = self.addresses.iter().find(|address| address.socket == socket);
            old.cloned().unwrap_or_else(|| Arc::new(Address::new(socket, pool)))
        });
        Known { addresses: Arc::new(addresses.collect()), answer: self.answer }
    }
}

pub fn is_denied(address: IpAddr, denied: &[IpNet]) -> bool {
    // An IPv4 address in IPv6 clothes is the same machine.
    let address = address.to_canonical();
    denied.iter().any(|network| network.contains(&address))
}
