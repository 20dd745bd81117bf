//! Sockets to listen on: taken from the service manager, or bound here. Either way they exist before anything else starts.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Listeners that systemd has bound for us, found again by their addresses.
pub struct Inherited(Vec<TcpListener>);

impl Inherited {
    pub fn from_env() -> anyhow::Result<Self> {
        let mut descriptors = ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..descriptors.len() {
            let listener =
                descriptors.take_tcp_listener(index).context("an inherited descriptor is no TCP listener")?;
            listeners.extend(listener);
        }
        Ok(Inherited(listeners))
    }

    /// The inherited listener for this address, or a new one.
    pub fn take_or_bind(&mut self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        let inherited = self.0.iter().position(|listener| {
            listener.local_addr().is_ok_and(|bound| canonical(bound) == canonical(address))
        });
        match inherited {
            Some(index) => Ok(self.0.swap_remove(index)),
            None => bind(address).with_context(|| format!("cannot listen on {address}")),
        }
    }

    /// Addresses that were handed over and that no listener of the configuration wants.
    pub fn unclaimed(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok())
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
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
