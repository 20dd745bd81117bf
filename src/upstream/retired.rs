//! `Retired`: an address to which no further request goes, and what is left of it in Pingora's pools.
//!
//! A pool cannot be asked to give up a connection: it has to be taken out as a request takes it, under the peer for which it was put in.
//! Each slot is taken for good, and with it the right to use its connection, so a slot that is in use is swept when it is given back.

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
        let mut template = template.clone();
        template._address = SocketAddr::Inet(address.socket);
        // A connection that is not there is not made.
        template.options.custom_l4 = Some(Arc::new(Nobody));
        // One of HTTP/2 goes back to the pool, and ends there.
        template.options.idle_timeout = Some(Duration::ZERO);
        Retired { address, template, group, protocol, pool, swept: Vec::new(), is_over: false }
    }

    /// The peers under which there may be a connection that nobody uses: those of the slots that were used and given back since.
    pub fn peers(&mut self) -> Vec<HttpPeer> {
        let mut keys = Vec::new();
        match self.protocol {
            Protocol::Http1 => {
                for slot in std::iter::repeat_with(|| self.address.slots.seize()).take(self.pool) {
                    let Some(index) = slot.index() else { break };
                    if self.address.slots.is_used(index) {
                        keys.push(key_of_slot(Some(index)));
                    }
                    self.swept.push(slot);
                }
                self.is_over = self.swept.len() >= self.pool;
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
        let peer = |key| {
            let mut peer = self.template.clone();
            peer.group_key = self.group ^ key;
            peer
        };
        keys.map(peer).collect()
    }

    /// Whether nothing can come back any more to what was swept.
    pub fn is_over(&self) -> bool {
        self.is_over
    }
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
