//! What is to be closed of what Pingora's pools hold: `Stale`, what has been idle for as long as it may be; and `Retired`, an address to
//! which no further request goes.
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
    _slot: Option<Slot>,
}

impl Stale {
    pub(super) fn of(
        address: &Address,
        template: &HttpPeer,
        group: u64,
        idle: Duration,
    ) -> impl Iterator<Item = Stale> {
        let limit = address.idle_limit.get().filter(|limit| *limit < idle);
        let peer = move |key| under(closing(template, address), group ^ key);
        let slots = address.slots.stale(limit.unwrap_or(idle)).into_iter().map(move |slot| {
            let key = key_of_slot(slot.index());
            // Those from before the function said when it closes are under another key than those from after.
            let keys = [Some(key), limit.map(|limit| key ^ key_of_limit(limit))];
            Stale { peers: keys.into_iter().flatten().map(peer).collect(), _slot: Some(slot) }
        });
        let surplus = if address.slots.has_surplus() { address.slots.unneeded() } else { 0 };
        let surplus = (0..surplus).map(move |_| Stale { peers: vec![peer(key_of_slot(None))], _slot: None });
        slots.chain(surplus)
    }
}

#[derive(Debug)]
pub struct Retired {
    address: Arc<Address>,
    template: HttpPeer,
    group: u64,
    protocol: Protocol,
    /// How many slots there are, and those that were swept.
    pool: usize,
    swept: Vec<Slot>,
    is_over: bool,
}

impl Retired {
    pub(super) fn new(
        address: Arc<Address>,
        template: &HttpPeer,
        group: u64,
        protocol: Protocol,
        pool: usize,
    ) -> Self {
        let template = closing(template, &address);
        Retired { address, template, group, protocol, pool, swept: Vec::new(), is_over: false }
    }

    /// The peers under which there may be a connection that nobody uses: those of the slots that were used and given back since.
    pub fn peers(&mut self) -> Vec<HttpPeer> {
        let mut keys = Vec::new();
        match self.protocol {
            Protocol::Http1 => {
                let slots = &self.address.slots;
                while let Some(slot) = slots.seize() {
                    keys.extend(
                        slot.index().filter(|index| slots.is_used(*index)).map(|i| key_of_slot(Some(i))),
                    );
                    self.swept.push(slot);
                }
                keys.extend((0..slots.unneeded()).map(|_| key_of_slot(None)));
                self.is_over = self.swept.len() >= self.pool && !slots.has_surplus();
            }
            Protocol::Http2 => {
                // Without slots, only the last lease tells; it ends after its connection went back to the pool.
                self.is_over = Arc::strong_count(&self.address) == 1;
                if self.address.slots.is_used(0) {
                    keys.extend([key_of_slot(None); HTTP2_CONNECTIONS]);
                }
            }
        }
        // Those from before the function said when it closes are under another key than those from after.
        let limit = self.address.idle_limit.get().map(key_of_limit);
        let keys = keys.iter().flat_map(|key| [Some(*key), limit.map(|limit| key ^ limit)]).flatten();
        keys.map(|key| under(self.template.clone(), self.group ^ key)).collect()
    }

    /// Whether nothing can come back any more to what was swept.
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
const HTTP2_CONNECTIONS: usize = 8;
