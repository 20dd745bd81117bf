//! What was read of a body and is still on its way to the function.
//!
//! Once the pipe between its two halves is full, Pingora's proxy no longer looks after the client: nobody would notice that it leaves,
//! nor that a time is over. So the pipe is never filled: the guard reads on when the function has taken what was read before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// The pieces that are out, of one request at a time.
#[derive(Default)]
pub(super) struct Lent {
    pieces: AtomicUsize,
    reader: Mutex<Option<Waker>>,
}

/// One of them.
struct Piece {
    bytes: Bytes,
    lent: Arc<Lent>,
}

impl Lent {
    /// The same bytes, which are counted until they are dropped.
    pub(super) fn lend(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.pieces.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Piece { bytes, lent: Arc::clone(self) })
    }

    /// Ready when more may be read.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if self.has_room() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_room(&self) -> bool {
        self.pieces.load(Ordering::Acquire) < LIMIT
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.lent.pieces.fetch_sub(1, Ordering::AcqRel);
        let reader = self.lent.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// The pipe has room for four. What is read last, a piece that nobody lends or the end alone, takes a place as well.
const LIMIT: usize = 3;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn there_is_room_again_when_a_piece_was_taken() {
        let lent = Arc::new(Lent::default());
        let room = || async { poll_fn(|cx| lent.poll_room(cx)).await };
        let mut out = Vec::new();
        for text in ["one", "two", "three"] {
            room().await;
            out.push(lent.lend(Bytes::from_static(text.as_bytes())));
        }
        assert_eq!(out, ["one", "two", "three"]);
        let (mut waits, clone) = (Box::pin(room()), out[0].clone());
        let is_pending = async |waits: &mut _| {
            let now = poll_fn(|cx| Poll::Ready(Future::poll(std::pin::Pin::new(waits), cx)));
            now.await.is_pending()
        };
        assert!(is_pending(&mut waits).await);

        drop(out.remove(0));

        assert!(is_pending(&mut waits).await, "somebody still has it");
        drop(clone);
        waits.await;
    }
}
