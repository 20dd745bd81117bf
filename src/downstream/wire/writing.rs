//! What Pingora writes, on its way to the client.
//!
//! Owns the gathering of small pieces, so that the head and the body of a small answer leave in one system call, and notices the
//! answers on which reading depends: the one that turns a connection into a tunnel, and the one that asks for a body. It holds
//! nothing back beyond a flush.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::{HALF_CLOSE, INNER, NOT_TAKEN, Stage, Wire, Wish};
use crate::downstream::pace::acknowledged;

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        if matches!(wire.wish, Wish::Tunnel | Wish::Consent)
            && let Some(first) = pieces.iter().find(|piece| !piece.is_empty())
        {
            wire.note_answer(first);
        }
        if wire.leaves.is_some() {
            // Who has left answers this with a reset, so the doubt begins anew.
            wire.leaves = Some(Instant::now() + HALF_CLOSE);
        }
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if wire.out.len() + total <= OUT_LIMIT {
            pieces.iter().for_each(|piece| wire.out.extend_from_slice(piece));
            return Poll::Ready(Ok(total));
        }
        loop {
            let mut all = [IoSlice::new(&[]); PIECES];
            all[0] = IoSlice::new(&wire.out);
            let taken = pieces.len().min(PIECES - 1);
            all[1..=taken].copy_from_slice(&pieces[..taken]);
            let inner = wire.inner.as_mut().expect(INNER);
            let first = usize::from(wire.out.is_empty());
            let written = match Pin::new(inner).poll_write_vectored(cx, &all[first..=taken]) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(wire.broken(error))),
                Poll::Pending => return wire.poll_write_stall(cx).map(Err),
            };
            wire.download.went();
            let ours = written.min(wire.out.len());
            wire.out.advance(ours);
            if written > ours || written == 0 {
                return Poll::Ready(Ok(written - ours));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_drain(cx))?;
        Pin::new(wire.inner_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_drain(cx))?;
        Pin::new(wire.inner_mut()).poll_shutdown(cx)
    }
}

impl Wire {
    /// Looks at each beginning of what Pingora writes until the client has got what it waits for, or the final answer has begun. Pingora
    /// hands over a head in one piece, so its first line is never cut.
    fn note_answer(&mut self, bytes: &[u8]) {
        self.wish = match self.wish {
            Wish::Tunnel if bytes.starts_with(b"HTTP/1.1 101 ") => {
                self.stage = Stage::Tunnel;
                Wish::Nothing
            }
            Wish::Consent if bytes.starts_with(b"HTTP/1.1 100 ") => Wish::Nothing,
            wish if bytes.starts_with(b"HTTP/1.1 1") => wish,
            Wish::Consent => Wish::Denied,
            _ => Wish::Nothing,
        };
    }

    /// Passes on what was written. Head and body of a small answer leave in one system call this way.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let inner = self.inner.as_mut().expect(INNER);
            let Poll::Ready(written) = Pin::new(inner).poll_write(cx, &self.out) else {
                return self.poll_write_stall(cx).map(Err);
            };
            self.download.went();
            match written {
                Ok(0) => return Poll::Ready(Err(self.broken(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.out.advance(written),
                Err(error) => return Poll::Ready(Err(self.broken(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A client that takes too little is given up.
    fn poll_write_stall(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Poll::Ready(Err(cut)) = self.poll_cut() {
            return Poll::Ready(self.broken(cut));
        }
        let Self { download, alarm, terms, inner, .. } = self;
        ready!(download.poll(cx, alarm, terms, || inner.as_ref().and_then(acknowledged)));
        self.refusal = Some(NOT_TAKEN);
        Poll::Ready(self.broken(io::ErrorKind::TimedOut.into()))
    }

    fn broken(&mut self, error: io::Error) -> io::Error {
        self.gone = true;
        error
    }
}

/// What is written piecemeal is gathered up to here, or until it is flushed.
const OUT_LIMIT: usize = 4 * 1024;
/// Our own bytes and the pieces of one chunk: its size line, its data, its end.
const PIECES: usize = 8;
