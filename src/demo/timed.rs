//! A body that is produced piece by piece while it is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Interval, interval};

/// The first piece at once, each later one after a pause.
pub(super) struct Timed<I> {
    clock: Interval,
    pieces: I,
}

impl<I: Iterator<Item = Bytes>> Timed<I> {
    pub(super) fn new(pause: Duration, pieces: I) -> Self {
        Timed { clock: interval(pause.max(Duration::from_millis(1))), pieces }
    }
}

impl<I: Iterator<Item = Bytes> + Unpin> Body for Timed<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.clock.poll_tick(cx));
        Poll::Ready(self.pieces.next().map(|piece| Ok(Frame::data(piece))))
    }
}
