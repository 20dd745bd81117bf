//! `Bulkhead`: how many requests of one route may be under way at once, and how many may wait for a place, so that one slow
//! function cannot take what the others need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::diag::Scope;
use crate::values::{Written, compile_duration};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The most requests of this route at once, up to 1000000
    #[schemars(range(min = 1, max = 1_000_000))]
    pub in_flight: u32,
    /// The most requests that wait for a place (default 0: none waits)
    #[schemars(range(max = 1_000_000))]
    pub queue: Option<u32>,
    /// How long one waits, at most 15m (default 1s)
    pub queue_timeout: Option<Written>,
}

pub fn compile(raw: Raw, scope: &Scope<'_>) -> Option<Arc<Bulkhead>> {
    let Raw { in_flight, queue, queue_timeout } = raw;
    let scope = scope.key("queue_timeout");
    let queue_timeout = match queue_timeout {
        Some(written) => compile_duration(&written, &scope)?,
        None => QUEUE_TIMEOUT,
    };
    if queue_timeout.is_zero() || queue_timeout > LONGEST_WAIT {
        scope.reject_with(
            format!("`queue_timeout` is {} ms", queue_timeout.as_millis()),
            "1 ms to 15 minutes; without a `queue`, nobody waits",
        );
        return None;
    }
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Some(Arc::new(Bulkhead::new(count(in_flight), count(queue.unwrap_or(0)), queue_timeout)))
}

/// A route's places, and the queue before them, which is served in the order of arrival.
#[derive(Debug)]
pub struct Bulkhead {
    in_flight: usize,
    queue: usize,
    queue_timeout: Duration,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to be under way; given back on drop.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// What is said to somebody who asks for a place.
#[derive(Debug)]
pub enum Admission {
    Come(Place),
    Wait(Queued),
    /// The queue is full as well.
    Full,
}

/// A place in the queue; given back on drop.
#[derive(Debug)]
pub struct Queued(Arc<Bulkhead>);

impl Bulkhead {
    pub fn new(in_flight: usize, queue: usize, queue_timeout: Duration) -> Self {
        let places = Arc::new(Semaphore::new(in_flight.min(Semaphore::MAX_PERMITS)));
        Bulkhead { in_flight, queue, queue_timeout, places, waiting: AtomicUsize::new(0) }
    }

    /// Never waits. Whoever queues is served before anybody who comes later.
    pub fn ask(self: &Arc<Self>) -> Admission {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Admission::Come(Place(permit));
        }
        let one_more = |waiting| (waiting < self.queue).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more) {
            Ok(_) => Admission::Wait(Queued(Arc::clone(self))),
            Err(_) => Admission::Full,
        }
    }

    /// Whether the other one sets the same limits, so that a reload can leave this one in place, with all who are in it.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.in_flight, self.queue, self.queue_timeout)
            == (other.in_flight, other.queue, other.queue_timeout)
    }
}

impl Queued {
    /// Waits for a place, for as long as the route lets one wait, and at most for `left`.
    pub async fn place(self, left: Option<Duration>) -> Option<Place> {
        let wait = left.unwrap_or(Duration::MAX).min(self.0.queue_timeout);
        let permit = tokio::time::timeout(wait, Arc::clone(&self.0.places).acquire_owned()).await;
        // The semaphore is never closed.
        permit.ok()?.ok().map(Place)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// No client waits for longer than the slowest platform lets a function run.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

#[cfg(test)]
mod tests {
    use super::*;

    fn bulkhead(in_flight: usize, queue: usize) -> Arc<Bulkhead> {
        Arc::new(Bulkhead::new(in_flight, queue, Duration::from_secs(1)))
    }

    #[track_caller]
    fn come(bulkhead: &Arc<Bulkhead>) -> Place {
        match bulkhead.ask() {
            Admission::Come(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn wait(bulkhead: &Arc<Bulkhead>) -> Queued {
        match bulkhead.ask() {
            Admission::Wait(queued) => queued,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_and_who_finds_no_room_goes() {
        let bulkhead = bulkhead(2, 1);
        let (first, _second) = (come(&bulkhead), come(&bulkhead));
        let queued = wait(&bulkhead);
        assert!(matches!(bulkhead.ask(), Admission::Full));

        let waiting = tokio::spawn(queued.place(None));
        tokio::task::yield_now().await;
        drop(first);
        // The place is the waiting one's, before anybody who asks now; but the queue has room again once it has gone.
        assert!(!matches!(bulkhead.ask(), Admission::Come(_)));
        let _third = waiting.await.unwrap().expect("a place");
        wait(&bulkhead);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends() {
        let bulkhead = bulkhead(1, 1);
        let _place = come(&bulkhead);
        for (left, waits) in [(None, 1000), (Some(Duration::from_millis(300)), 300)] {
            let begun = tokio::time::Instant::now();
            assert!(wait(&bulkhead).place(left).await.is_none());
            assert!((waits..waits + 10).contains(&begun.elapsed().as_millis()), "{left:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_makes_room_in_it() {
        let bulkhead = bulkhead(1, 1);
        let place = come(&bulkhead);
        let left = tokio::spawn(wait(&bulkhead).place(None));
        tokio::task::yield_now().await;
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        let next = tokio::spawn(wait(&bulkhead).place(None));
        tokio::task::yield_now().await;
        drop(place);
        assert!(next.await.unwrap().is_some(), "the one who left took no place with it");
    }

    #[test]
    fn the_same_limits_are_like_each_other() {
        assert!(bulkhead(2, 1).is_like(&bulkhead(2, 1)));
        assert!(!bulkhead(2, 1).is_like(&bulkhead(2, 2)));
        assert!(!bulkhead(2, 1).is_like(&bulkhead(1, 1)));
    }
}
