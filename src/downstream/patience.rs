//! How long the function is waited for: until a time, and through a silence.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::alarm::Alarm;

/// Set by the hooks of the proxy through a shared reference, in the task that also waits.
pub(super) struct Patience {
    born: Instant,
    /// In microseconds after `born`, as all times here; 0 is never.
    deadline: AtomicU64,
    /// The longest silence; 0 is any.
    silence: AtomicU64,
    /// The same while what was read of the body is not taken.
    reluctance: AtomicU64,
    /// When the silence began. Known only from the first wait on, so that what does not wait needs no look at the clock.
    since: AtomicU64,
    expired: AtomicBool,
}

impl Patience {
    pub(super) fn new(born: Instant) -> Self {
        Self {
            born,
            deadline: AtomicU64::new(0),
            silence: AtomicU64::new(0),
            reluctance: AtomicU64::new(0),
            since: AtomicU64::new(0),
            expired: AtomicBool::new(false),
        }
    }

    pub(super) fn set(&self, deadline: Option<Instant>, silence: Option<Duration>) {
        let deadline = deadline.map_or(0, |at| micros(at.duration_since(self.born)));
        self.deadline.store(deadline, Ordering::Relaxed);
        self.silence.store(silence.map_or(0, micros), Ordering::Relaxed);
        self.heard();
    }

    pub(super) fn set_reluctance(&self, longest: Option<Duration>) {
        self.reluctance.store(longest.map_or(0, micros), Ordering::Relaxed);
    }

    /// The function has said something, or was told something, so that its silence begins anew.
    pub(super) fn heard(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// For somebody who has to wait: ready when it was long enough.
    pub(super) fn poll(&self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<()> {
        self.poll_silence(self.silence.load(Ordering::Relaxed), cx, alarm)
    }

    /// The same for somebody who waits because the function has not taken what was read of the body.
    pub(super) fn poll_untaken(&self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<()> {
        self.poll_silence(self.reluctance.load(Ordering::Relaxed), cx, alarm)
    }

    fn poll_silence(&self, longest: u64, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<()> {
        let Some(end) = self.end(longest) else { return Poll::Pending };
        ready!(alarm.poll(cx, end));
        self.expired.store(true, Ordering::Relaxed);
        Poll::Ready(())
    }

    pub(super) fn has_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }

    fn end(&self, longest: u64) -> Option<Instant> {
        let deadline = match self.deadline.load(Ordering::Relaxed) {
            0 => None,
            after => Some(self.born + Duration::from_micros(after)),
        };
        let silence = match longest {
            0 => None,
            longest => Some(self.silent_since() + Duration::from_micros(longest)),
        };
        deadline.into_iter().chain(silence).min()
    }

    fn silent_since(&self) -> Instant {
        let since = match self.since.load(Ordering::Relaxed) {
            0 => {
                let now = micros(self.born.elapsed());
                self.since.store(now, Ordering::Relaxed);
                now
            }
            since => since,
        };
        self.born + Duration::from_micros(since)
    }
}

/// At least one, since none means something else.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
