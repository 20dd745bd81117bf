//! Sockets to listen on: taken from the service manager or from the process before, or bound here. Either way they exist before
//! anything else starts.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Listeners that somebody else has bound for us, found again by their addresses.
pub struct Inherited {
    listeners: Vec<TcpListener>,
    predecessor: Option<UnixStream>,
}

impl Inherited {
    pub fn from_env() -> anyhow::Result<Self> {
        let mut descriptors = ListenFd::from_env();
        let mut listeners = Vec::new();
        let mut count = descriptors.len();
        let mut predecessor = None;
        if std::env::var_os(FROM_PREDECESSOR).is_some() {
            count = count.checked_sub(1).context("the process before passed nothing")?;
            let (family, kind) = (Domain::UNIX.into(), Type::STREAM.into());
            predecessor = descriptors.take_custom(count, family, kind, "channel")?;
        }
        for (index, number) in (0..count).zip(FIRST_DESCRIPTOR..) {
            let listener = descriptors.take_tcp_listener(index).with_context(|| {
                format!("the service manager passed descriptor {number}, which is no TCP socket (`ListenStream=` with an address is)")
            })?;
            let Some(listener) = listener else { continue };
            if !SockRef::from(&listener).is_listener()? {
                bail!(
                    "the service manager passed descriptor {number}, which is a connection (`Accept=no` is needed)"
                );
            }
            listeners.push(listener);
        }
        Ok(Inherited { listeners, predecessor })
    }

    /// The inherited listener for this address, or a new one.
    pub fn take_or_bind(&mut self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        match self.position(address) {
            Some(index) => Ok(self.listeners.swap_remove(index)),
            None => bind(address).with_context(|| format!("cannot listen on {address}")),
        }
    }

    /// The listener that is bound exactly so comes before one that stands for both families.
    fn position(&self, address: SocketAddr) -> Option<usize> {
        let bound = || self.listeners.iter().map(|listener| listener.local_addr().ok());
        let exact = bound().position(|bound| bound == Some(address));
        exact.or_else(|| {
            bound().position(|bound| bound.is_some_and(|bound| canonical(bound) == canonical(address)))
        })
    }

    /// Addresses that were handed over and that no listener of the configuration wants.
    pub fn unclaimed(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok())
    }

    /// The channel to the process that this one is to replace.
    pub fn predecessor(self) -> Option<UnixStream> {
        self.predecessor
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// systemd binds `[::]` for both families; a file that says `0.0.0.0` means the same listener.
fn canonical(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from(([0, 0, 0, 0], address.port()));
    }
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// As sd_listen_fds(3) counts.
pub const FIRST_DESCRIPTOR: RawFd = 3;
/// The environment variable that says how many descriptors there are.
pub const COUNT: &str = "LISTEN_FDS";
/// Set where they come from a process to be replaced; the last one is then the channel to it.
pub const FROM_PREDECESSOR: &str = "FNGATE_PREDECESSOR";

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(addresses: &[&str]) -> Inherited {
        let listeners = addresses.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
        Inherited { listeners, predecessor: None }
    }

    #[test]
    fn an_inherited_listener_is_found_by_its_address() {
        let mut inherited = bound(&["127.0.0.1:0", "127.0.0.1:0"]);
        let addresses: Vec<_> = inherited.unclaimed().collect();

        for address in addresses.iter().rev() {
            assert_eq!(inherited.take_or_bind(*address).unwrap().local_addr().unwrap(), *address);
        }

        assert_eq!(inherited.unclaimed().count(), 0);
    }

    #[test]
    fn a_listener_for_both_families_is_the_one_for_any_address() {
        let mut inherited = bound(&["[::]:0"]);
        let address = inherited.unclaimed().next().unwrap();

        let taken = inherited.take_or_bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).unwrap();

        assert_eq!(taken.local_addr().unwrap(), address);
    }

    #[test]
    fn what_nobody_wants_is_told() {
        let mut inherited = bound(&["127.0.0.1:0"]);
        let passed = inherited.unclaimed().next().unwrap();

        let own = inherited.take_or_bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();

        assert_ne!(own.local_addr().unwrap(), passed);
        assert_eq!(inherited.unclaimed().collect::<Vec<_>>(), [passed]);
    }

    #[test]
    fn a_port_in_use_is_said_with_its_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = format!("{:#}", bound(&[]).take_or_bind(address).unwrap_err());
        assert!(
            error.starts_with(&format!("cannot listen on {address}: ")) && error.contains("in use"),
            "{error}"
        );
    }
}
