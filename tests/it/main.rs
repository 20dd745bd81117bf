//! The built binary against real sockets.
