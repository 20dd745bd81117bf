//! Addresses at which no connection comes about.

use std::net::SocketAddr;

use super::home::{free_port, local};

/// A port on which connections are refused for as long as this value lives.
pub(crate) struct Refusing(socket2::Socket);

impl Refusing {
    /// Bound, so that nobody else gets the port, and never listening.
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&local(free_port()).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// A port on which connecting neither succeeds nor fails: its queue is full and nobody accepts.
pub(crate) struct Silent {
    listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Silent {
    pub(crate) fn new() -> Self {
        let listener = Refusing::new().0;
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        // The kernel takes one connection more than the backlog says; the rest only sends SYNs that nobody answers.
        let queued = (0..4)
            .map(|_| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                // In progress is all that can be said about it.
                let _ = socket.connect(&addr);
                socket
            })
            .collect();
        Self { listener, _queued: queued }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}
