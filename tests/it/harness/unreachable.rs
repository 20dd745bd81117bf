//! Addresses at which no connection comes about, or none for long.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

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

/// A server that gives one answer; at its next request it is gone, and so is the connection.
pub(crate) async fn mortal() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(local(free_port())).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let dying = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        // A request without a body comes in one piece, on loopback.
        assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
        drop(listener);
    });
    (addr, dying)
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
