//! How slow a client may be, with what it sends and with what it takes.
//!
//! Only the time counts for which we wait for the client; while nothing is asked of it, or nothing is there for it, it may be as
//! silent as it likes. So event streams and WebSockets have no pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::Stream;
use tokio::time::Instant;

use super::Terms;
use super::alarm::Alarm;

/// The patience with a body on its way in: waiting uses it up, every byte gives a little back.
pub(super) struct Upload {
    left: Duration,
    waiting: Option<Instant>,
}

impl Upload {
    pub(super) fn begin() -> Self {
        Self { left: GRACE, waiting: None }
    }

    pub(super) fn arrived(&mut self, bytes: usize, terms: &Terms) {
        if let Some(since) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if self.left < GRACE && terms.min_rate > 0 {
            let earned = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / terms.min_rate);
            self.left = self.left.saturating_add(earned).min(GRACE);
        }
    }

    /// It is not waited for, and was not since it was last asked.
    pub(super) fn rest(&mut self) {
        self.waiting = None;
    }

    /// Ready when the client is too slow, or has not moved for as long as it may be idle. Only who has to wait comes here, so that
    /// all others need no timer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm, terms: &Terms) -> Poll<()> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let patience =
            if terms.min_rate > 0 { self.left.min(terms.idle_timeout) } else { terms.idle_timeout };
        alarm.poll(cx, since + patience)
    }
}

/// The bodies on their way in over one HTTP/2 connection. They share its pace: each needs its rate, but a client may as well send
/// one after the other, so what comes for one counts for all.
#[derive(Default)]
pub(super) struct Uploads {
    under_way: AtomicU32,
    /// Of these, how many are waited for. The others wait for their functions, and may have used up the connection's window.
    waiting: AtomicU32,
    bytes: AtomicU64,
}

/// One of them.
pub(super) struct SharedUpload {
    shared: Arc<Uploads>,
    is_under_way: bool,
    /// What is left of the patience, in microseconds; less than nothing while that is not noticed yet.
    left: i64,
    waiting: Option<Waiting>,
    /// How many bytes of all bodies have been taken into account.
    counted: u64,
}

#[derive(Clone, Copy)]
struct Waiting {
    /// Since when nothing came for this one.
    silent: Instant,
    /// Since when nothing was taken into account.
    since: Instant,
}

impl SharedUpload {
    pub(super) fn begin(shared: &Arc<Uploads>, has_body: bool) -> Self {
        let counted = shared.bytes.load(Ordering::Relaxed);
        if has_body {
            shared.under_way.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            shared: Arc::clone(shared),
            is_under_way: has_body,
            left: micros(GRACE),
            waiting: None,
            counted,
        }
    }

    /// The next piece, or the end.
    pub(super) fn arrived(&mut self, piece: Option<&Bytes>, terms: &Terms) {
        let Some(piece) = piece else { return self.end() };
        self.shared.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if let Some(Waiting { since, .. }) = self.waiting {
            self.settle(since, Instant::now(), terms);
            self.rest();
        }
    }

    /// Nothing more is expected of the client.
    pub(super) fn end(&mut self) {
        self.rest();
        if std::mem::take(&mut self.is_under_way) {
            self.shared.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Ready when the client is too slow, or has sent nothing of this body for as long as it may be idle.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm, terms: &Terms) -> Poll<()> {
        if !self.is_under_way {
            return Poll::Pending;
        }
        loop {
            let Waiting { silent, since } = *self.waiting.get_or_insert_with(|| {
                self.shared.waiting.fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                Waiting { silent: now, since: now }
            });
            let idle = silent + terms.idle_timeout;
            let mut end = idle;
            if terms.min_rate > 0 {
                let Ok(left) = u64::try_from(self.left + micros(STEP)) else { return Poll::Ready(()) };
                end = idle.min(since + Duration::from_micros(left).max(STEP));
            }
            ready!(alarm.poll(cx, end));
            self.settle(since, end, terms);
            if end == idle {
                return Poll::Ready(());
            }
            self.waiting = Some(Waiting { silent, since: end });
        }
    }

    /// Takes into account what came for all since then.
    fn settle(&mut self, since: Instant, now: Instant, terms: &Terms) {
        let Uploads { under_way, waiting, bytes } = &*self.shared;
        let bytes = bytes.load(Ordering::Relaxed);
        let came = bytes - std::mem::replace(&mut self.counted, bytes);
        let all = under_way.load(Ordering::Relaxed).max(1);
        if waiting.load(Ordering::Relaxed) < all {
            self.left = micros(GRACE);
            return;
        }
        let rate = terms.min_rate.saturating_mul(all.into()).max(1);
        let earned = Duration::from_micros(came.saturating_mul(1_000_000) / rate);
        let left = self.left.saturating_add(micros(earned)).saturating_sub(micros(now.duration_since(since)));
        self.left = left.min(micros(GRACE));
    }

    /// It is not waited for.
    pub(super) fn rest(&mut self) {
        if self.waiting.take().is_some() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for SharedUpload {
    fn drop(&mut self) {
        self.end();
    }
}

/// The patience with a client that takes what is written. A write that waits says little: the kernel's buffer is large, and there
/// is no room in it before a good part has gone. So what the client has acknowledged is looked at, once in a while.
#[derive(Default)]
pub(super) struct Download(Option<Wait>);

struct Wait {
    since: Instant,
    check: Instant,
    /// What the client had acknowledged at the last look.
    taken: Option<u64>,
}

impl Download {
    /// The kernel had room.
    pub(super) fn went(&mut self) {
        self.0 = None;
    }

    /// Ready when the client is too slow, or takes nothing. `taken` says how much it has acknowledged in all, if that is known.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        alarm: &mut Alarm,
        terms: &Terms,
        taken: impl Fn() -> Option<u64>,
    ) -> Poll<()> {
        let interval = if terms.min_rate > 0 { LOOK.min(terms.idle_timeout) } else { terms.idle_timeout };
        let wait = self.0.get_or_insert_with(|| {
            let since = Instant::now();
            Wait { since, check: since + interval, taken: None }
        });
        loop {
            ready!(alarm.poll(cx, wait.check));
            let Some(now) = taken() else {
                let end = wait.since + terms.idle_timeout;
                if wait.check >= end {
                    return Poll::Ready(());
                }
                wait.check = end;
                continue;
            };
            let wanted = (u128::from(terms.min_rate) * interval.as_millis() / 1000).max(1);
            if wait.taken.is_some_and(|before| u128::from(now.saturating_sub(before)) < wanted) {
                return Poll::Ready(());
            }
            wait.taken = Some(now);
            // Not from when it was due: after a pause of the process, the client had no time to take anything.
            wait.check = Instant::now() + interval;
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// How much the client has acknowledged of all that was written to it, as its connection says.
pub(super) fn acknowledged(stream: &Stream) -> Option<u64> {
    Some(stream.get_socket_digest()?.tcp_info()?.tcpi_bytes_acked)
}

/// A client's first waits are free.
const GRACE: Duration = Duration::from_secs(5);
/// Whoever shares a pace does not look at it more often, and is waited for that much longer.
const STEP: Duration = Duration::from_millis(250);
/// How often is looked at what a client has taken, and for how long its pace is measured.
const LOOK: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;
    use crate::downstream::{HeadLimits, Observer, Refused};

    struct Nobody;

    impl Observer for Nobody {
        fn refused(&self, _: &Refused<'_>) {}
    }

    fn terms(min_rate: u64) -> Terms {
        Terms {
            head: HeadLimits::default(),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            connections: 1,
            requests_per_connection: 1,
            min_rate,
            control_frames: 1,
            observer: Arc::new(Nobody),
        }
    }

    /// How many seconds a client is waited for that sends so much each second.
    async fn uploading(rate: usize, min_rate: u64, at_most: u64) -> u64 {
        let (mut upload, mut alarm, terms) = (Upload::begin(), Alarm::default(), terms(min_rate));
        let begun = Instant::now();
        while begun.elapsed().as_secs() < at_most {
            let slow = poll_fn(|cx| upload.poll(cx, &mut alarm, &terms));
            if tokio::time::timeout(Duration::from_secs(1), slow).await.is_ok() {
                break;
            }
            if rate > 0 {
                upload.arrived(rate, &terms);
            }
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_needs_its_pace_after_the_grace() {
        assert_eq!(uploading(0, 500, 300).await, 5);
        assert_eq!(uploading(250, 500, 300).await, 9);
        assert_eq!(uploading(500, 500, 300).await, 300);
        assert_eq!(uploading(1_000_000, 500, 300).await, 300);
        assert_eq!(uploading(0, 0, 300).await, 75, "without a rate, only silence ends it");
        assert_eq!(uploading(1, 0, 300).await, 300);
    }

    /// How many seconds the first of several bodies on one connection is waited for, when so much comes each second for each.
    async fn uploading_together(rates: &[usize], held_up: usize, at_most: u64) -> u64 {
        let (shared, terms) = (Arc::default(), terms(500));
        let begin = || (SharedUpload::begin(&shared, true), Alarm::default());
        let mut uploads: Vec<_> = rates.iter().map(|_| begin()).collect();
        // Nobody waits for these.
        let _held_up: Vec<_> = (0..held_up).map(|_| begin()).collect();
        let begun = Instant::now();
        while begun.elapsed().as_secs() < at_most {
            let slow = poll_fn(|cx| {
                let mut polled = uploads.iter_mut().map(|(upload, alarm)| upload.poll(cx, alarm, &terms));
                let first = polled.next().unwrap();
                polled.for_each(drop);
                first
            });
            if tokio::time::timeout(Duration::from_secs(1), slow).await.is_ok() {
                break;
            }
            for ((upload, _), rate) in uploads.iter_mut().zip(rates).filter(|(_, rate)| **rate > 0) {
                upload.arrived(Some(&Bytes::from(vec![0; *rate])), &terms);
            }
        }
        begun.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_over_one_connection_share_their_pace() {
        assert_eq!(uploading_together(&[0], 0, 300).await, 5);
        assert_eq!(uploading_together(&[500], 0, 300).await, 300);
        assert_eq!(uploading_together(&[0, 0, 0], 0, 300).await, 5);
        assert_eq!(uploading_together(&[400, 400, 700], 0, 300).await, 300);
        assert_eq!(uploading_together(&[250, 250], 0, 300).await, 10);
        assert_eq!(uploading_together(&[0, 2000], 0, 300).await, 75, "but each has to move");
        assert_eq!(uploading_together(&[1, 2000], 0, 300).await, 300);
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_be_held_up_by_a_function_has_no_pace() {
        assert_eq!(uploading_together(&[1], 1, 300).await, 300);
        assert_eq!(uploading_together(&[0], 1, 300).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_ended_is_not_waited_for() {
        let (shared, terms) = (Arc::default(), terms(500));
        let mut upload = SharedUpload::begin(&shared, true);
        poll_fn(|cx| Poll::Ready(upload.poll(cx, &mut Alarm::default(), &terms))).await.is_pending();
        upload.arrived(None, &terms);
        drop(SharedUpload::begin(&shared, true));
        let waits = poll_fn(|cx| upload.poll(cx, &mut Alarm::default(), &terms));
        assert!(tokio::time::timeout(Duration::from_secs(300), waits).await.is_err());
        let left = [&shared.under_way, &shared.waiting].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(left, [0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_quickly_excuses_no_later_drip() {
        let (mut upload, mut alarm, terms) = (Upload::begin(), Alarm::default(), terms(500));
        upload.arrived(1 << 30, &terms);
        let begun = Instant::now();
        poll_fn(|cx| upload.poll(cx, &mut alarm, &terms)).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    /// How many seconds a client is waited for that acknowledges so much each second while our write waits.
    async fn downloading(rate: u64, min_rate: u64, is_known: bool) -> Option<u64> {
        let (mut download, mut alarm, terms) = (Download::default(), Alarm::default(), terms(min_rate));
        let begun = Instant::now();
        let looks = Cell::new(0);
        let taken = || {
            looks.set(looks.get() + 1);
            is_known.then(|| begun.elapsed().as_secs() * rate)
        };
        let slow = poll_fn(|cx| download.poll(cx, &mut alarm, &terms, taken));
        let ended = tokio::time::timeout(Duration::from_secs(3600), slow).await;
        assert!(looks.get() <= 3600 / 15, "{} looks", looks.get());
        ended.ok().map(|()| begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_process_is_not_the_clients() {
        let (mut download, mut alarm, terms) = (Download::default(), Alarm::default(), terms(500));
        let begun = Instant::now();
        let taken = || Some(begun.elapsed().as_secs() * 500);
        let mut slow = std::pin::pin!(poll_fn(|cx| download.poll(cx, &mut alarm, &terms, taken)));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut slow).await.is_err());

        tokio::time::advance(10 * LOOK).await;

        assert!(tokio::time::timeout(3 * LOOK, &mut slow).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_needs_its_pace() {
        assert_eq!(downloading(0, 500, true).await, Some(30));
        assert_eq!(downloading(499, 500, true).await, Some(30));
        assert_eq!(downloading(500, 500, true).await, None, "though our write has waited for an hour");
        assert_eq!(downloading(1, 0, true).await, None);
        assert_eq!(downloading(0, 0, true).await, Some(150));
        assert_eq!(downloading(0, 500, false).await, Some(75));
        assert_eq!(downloading(0, 0, false).await, Some(75));
    }
}
