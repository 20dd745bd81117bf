//! What is to be closed of what Pingora's pools hold: `Stale`, what has been idle for as long as it may be; and `Retired`, an address to
//! which no further request is meant to go.
//!
//! A pool cannot be asked to give up a connection: it has to be taken out as a request takes it, under the peer for which it was put in,
//! by who has the slot, and with it the right to use its connection. Of what is retired, each slot is taken for good, so one that is in
//! use is swept when it is given back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use super::endpoint::Address;
use super::slots::Slot;
use super::{Protocol, key_of_limit, key_of_slot};

/// Connections that may be there, under these peers. Their slot is nobody else's as long as this is held.
#[derive(Debug)]
pub struct Stale {
    pub peers: Vec<HttpPeer>,
    _slot: Slot,
}

impl Stale {
    pub(super) fn of(address: &Address, template: &HttpPeer, group: u64, idle: Duration) -> Vec<Stale> {
        let limit = address.idle_limit.within(idle);
        let peer = |key| under(closing(template, address), group ^ key);
        let stale = |slot: Slot| {
            let key = key_of_slot(slot.index());
            // Those from before the function said when it closes are under another key than those from after.
            let keys = [Some(key), limit.map(|limit| key ^ key_of_limit(limit))];
            Stale { peers: keys.into_iter().flatten().map(peer).collect(), _slot: slot }
        };
        address.slots.stale(limit.unwrap_or(idle)).into_iter().map(stale).collect()
    }
}

/// The peers of as many connections as the surplus has had no need of since this was asked last.
pub(super) fn unneeded(address: &Address, template: &HttpPeer, group: u64) -> Vec<HttpPeer> {
    let count = if address.slots.has_surplus() { address.slots.unneeded() } else { 0 };
    (0..count).map(|_| under(closing(template, address), group ^ key_of_slot(None))).collect()
}

#[derive(Debug)]
pub struct Retired {
    address: Arc<Address>,
    template: HttpPeer,
    group: u64,
    protocol: Protocol,
    swept: Vec<Slot>,
    is_over: bool,
}

impl Retired {
    pub(super) fn new(address: Arc<Address>, template: &HttpPeer, group: u64, protocol: Protocol) -> Self {
        let template = closing(template, &address);
        Retired { address, template, group, protocol, swept: Vec::new(), is_over: false }
    }

    /// The peers under which there may be a connection that nobody uses: those of the slots that were used and given back since.
    pub fn peers(&mut self) -> Vec<HttpPeer> {
        // Asked first: nobody who has gone by now brings anything after this.
        let is_reachable = Arc::get_mut(&mut self.address).is_none();
        let slots = &self.address.slots;
        let mut keys = Vec::new();
        while let Some(slot) = slots.seize() {
            keys.extend(slot.index().filter(|index| slots.is_used(*index)).map(|i| key_of_slot(Some(i))));
            self.swept.push(slot);
        }
        let had_surplus = slots.has_surplus();
        let surplus = match (self.protocol, slots.unneeded()) {
            (Protocol::Http1, unneeded) => unneeded,
            // They share connections, so their number says only whether there was anybody.
            (Protocol::Http2, _) if had_surplus => HTTP2_CONNECTIONS,
            (Protocol::Http2, _) => 0,
        };
        keys.extend((0..surplus).map(|_| key_of_slot(None)));
        self.is_over = !is_reachable && self.swept.len() == slots.count() && !slots.has_surplus();
        // Those from before the function said when it closes are under another key than those from after.
        let limit = self.address.idle_limit.get().map(key_of_limit);
        let keys = keys.iter().flat_map(|key| [Some(*key), limit.map(|limit| key ^ limit)]).flatten();
        keys.map(|key| under(self.template.clone(), self.group ^ key)).collect()
    }

    /// Whether nothing can come back any more to what was swept: nobody uses the address, nor can come to it.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

/// A peer that leads to a connection in the pool, or to none.
fn closing(template: &HttpPeer, address: &Address) -> HttpPeer {
    let mut peer = template.clone();
    peer._address = SocketAddr::Inet(address.socket);
    // A connection that is not there is not made.
    peer.options.custom_l4 = Some(Arc::new(Nobody));
    // One of HTTP/2 goes back to the pool, and ends there.
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer
}

fn under(mut peer: HttpPeer, group: u64) -> HttpPeer {
    peer.group_key = group;
    peer
}

/// Answers no call.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl L4Connect for Nobody {
    async fn connect(&self, _: &SocketAddr) -> pingora::Result<Stream> {
        Err(Error::new(ErrorType::ConnectError))
    }
}

/// How many are looked for at a time. Mostly there is one; where a server speaks HTTP/1 only, one for each request of a burst.
const HTTP2_CONNECTIONS: u32 = 8;
