//! How long the function is waited for: until a time, and through a silence.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Set through a shared reference, by the task that also reads and writes.
pub(super) struct Patience {
    born: Instant,
    /// In microseconds after `born`; 0 is never.
    deadline: AtomicU64,
    /// The longest silence, in microseconds; 0 is any.
    silence: AtomicU64,
    /// The function has said something, so that its silence begins anew.
    heard: AtomicBool,
    /// When the silence began. Known only from the first wait on, so that what does not wait needs no look at the clock.
    since: Option<Instant>,
}

impl Patience {
    pub(super) fn new(born: Instant) -> Self {
        Self {
            born,
            deadline: AtomicU64::new(0),
            silence: AtomicU64::new(0),
            heard: AtomicBool::new(false),
            since: None,
        }
    }

    pub(super) fn set(&self, deadline: Option<Instant>, silence: Option<Duration>) {
        let deadline = deadline.map_or(0, |at| micros(at.duration_since(self.born)));
        self.deadline.store(deadline, Ordering::Relaxed);
        self.silence.store(silence.map_or(0, micros), Ordering::Relaxed);
        self.heard();
    }

    pub(super) fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// When it ends, as seen by somebody who has to wait now.
    pub(super) fn end(&mut self) -> Option<Instant> {
        if mem::take(self.heard.get_mut()) {
            self.since = None;
        }
        let deadline = match *self.deadline.get_mut() {
            0 => None,
            after => Some(self.born + Duration::from_micros(after)),
        };
        let silence = match *self.silence.get_mut() {
            0 => None,
            longest => Some(*self.since.get_or_insert_with(Instant::now) + Duration::from_micros(longest)),
        };
        deadline.into_iter().chain(silence).min()
    }
}

/// At least one, since none means something else.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
