//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from `first` to `longest`; what is waited is between half of that and all of it, so that those who failed together do
/// not come back together.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// Before the attempt that follows `failed` failed ones, of which there is at least one.
    pub fn delay(&self, failed: u32) -> Duration {
        let doubled = 2u32.checked_pow(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(doubled).min(self.longest);
        whole / 2 + whole.mul_f64(fastrand::f64()) / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };
        for (failed, longest) in [(1, 100), (2, 200), (3, 400), (5, 1600), (6, 2000), (40, 2000)] {
            for _ in 0..100 {
                let delay = backoff.delay(failed);
                let longest = Duration::from_millis(longest);
                assert!((longest / 2..=longest).contains(&delay), "{failed}: {delay:?}");
            }
        }
    }

    #[test]
    fn waits_are_spread() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(1) };
        let delays: std::collections::HashSet<_> = (0..100).map(|_| backoff.delay(1)).collect();
        assert!(delays.len() > 50, "{delays:?}");
    }
}
