//! `IdleLimit`: how long an idle connection may be used again, as far as the other side says.
//!
//! A request that meets a connection while it is being closed is lost, and not every request may be sent twice. So a function that
//! announces when it closes is not waited for: its connections end here, a moment earlier.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The shortest limit heard at one address, behind which there may be several servers.
#[derive(Debug)]
pub(super) struct IdleLimit(AtomicU64);

impl Default for IdleLimit {
    fn default() -> Self {
        IdleLimit(AtomicU64::new(UNSAID))
    }
}

impl IdleLimit {
    /// Takes in the value of a `Keep-Alive` field.
    pub(super) fn hear(&self, field: &[u8]) {
        let Some(seconds) = announced(field) else { return };
        let announced = Duration::from_secs(seconds.into());
        let limit = announced.saturating_sub(MARGIN).max(announced / 2);
        let limit = u64::try_from(limit.as_millis()).unwrap_or(UNSAID);
        // Every answer says the same: who only looks does not take the cache line from the others.
        if limit < self.0.load(Ordering::Relaxed) {
            self.0.fetch_min(limit, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        let limit = self.0.load(Ordering::Relaxed);
        (limit != UNSAID).then(|| Duration::from_millis(limit))
    }

    /// The limit, where it is shorter than ours.
    pub(super) fn within(&self, idle: Duration) -> Option<Duration> {
        self.get().filter(|limit| *limit < idle)
    }
}

/// The seconds in `timeout=5, max=100`.
fn announced(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse().ok())?
    })
}

const UNSAID: u64 = u64::MAX;
/// What the way of the last bytes of an answer, and of the next request, may take.
const MARGIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &[&[u8]], expected: Option<u64>) {
        let limit = IdleLimit::default();
        fields.iter().for_each(|field| limit.hear(field));
        assert_eq!(limit.get(), expected.map(Duration::from_millis));
    }

    #[test]
    fn a_connection_ends_before_the_other_side_ends_it() {
        check(&[b"timeout=5"], Some(4_000));
        check(&[b"max=100, Timeout = 75"], Some(74_000));
        check(&[b"timeout=2"], Some(1_000));
        check(&[b"timeout=1"], Some(500));
        check(&[b"timeout=0"], Some(0));
        check(&[b"timeout=4294967295"], Some(4_294_967_294_000));
    }

    #[test]
    fn the_shortest_time_counts() {
        check(&[b"timeout=5", b"timeout=75"], Some(4_000));
        check(&[b"timeout=75", b"timeout=5"], Some(4_000));
        check(&[b"timeout=5", b"max=9"], Some(4_000));
    }

    #[test]
    fn what_is_no_time_says_nothing() {
        for field in [&b""[..], b"max=100", b"timeout", b"timeout=", b"timeout=-1", b"timeout=5s"] {
            check(&[field], None);
        }
        for field in [&b"timeout=4294967296"[..], b"xtimeout=5", b"timeout=\xff"] {
            check(&[field], None);
        }
    }
}
