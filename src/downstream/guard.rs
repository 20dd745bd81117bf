//! What the hooks of the proxy tell the guard of a request, and hear from it, whichever protocol the client speaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use tokio::time::Instant;

use super::Refusal;
use super::patience::Patience;
use super::strand::{self, Watch};
use super::wire::Wire;

pub enum Guard<'a> {
    /// Of HTTP/1: a connection carries one request at a time.
    Wire(&'a Wire),
    /// Of HTTP/2.
    Strand(Arc<Watch>),
}

impl<'a> Guard<'a> {
    /// The guard under a session, for whoever is called from the request's own task.
    pub fn of(session: &'a ServerSession) -> Option<Self> {
        match Wire::of(session) {
            Some(wire) => Some(Self::Wire(wire)),
            None => strand::current(session).map(Self::Strand),
        }
    }

    /// Ends the wait for the function, by a failed read, at this time or after this silence.
    pub fn expire(&self, at: Option<Instant>, silence: Option<Duration>) {
        self.patience().set(at, silence);
    }

    /// A piece of the body on its way to the function, of which few are out at a time. The wait for the function also ends when it
    /// has left one for so long.
    pub fn lend(&self, piece: Bytes, longest: Option<Duration>) -> Bytes {
        self.patience().set_reluctance(longest);
        let lent = match self {
            Self::Wire(wire) => wire.lent(),
            Self::Strand(watch) => watch.lent(),
        };
        lent.lend(piece)
    }

    /// The function has said something, or was told something, so that its silence begins anew.
    pub fn heard(&self) {
        self.patience().heard();
    }

    /// Whether a read failed because that time had come.
    pub fn has_expired(&self) -> bool {
        self.patience().has_expired()
    }

    /// Both sides talk from now on: the client may be silent for as long as the function bears it. Over HTTP/1 nobody does so
    /// without an upgrade.
    pub fn converse(&self) {
        if let Self::Strand(watch) = self {
            watch.converse();
        }
    }

    /// Why the client was not waited for any longer, when that is the cause of a failed read or write.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Wire(wire) => wire.refusal(),
            Self::Strand(watch) => watch.refusal(),
        }
    }

    fn patience(&self) -> &Patience {
        match self {
            Self::Wire(wire) => wire.patience(),
            Self::Strand(watch) => watch.patience(),
        }
    }
}
