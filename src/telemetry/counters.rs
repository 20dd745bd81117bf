//! What metrics are made of: levels that go up and down, counters by status, histograms, and copies of them for each thread.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A level that goes up and down.
#[derive(Default)]
pub(super) struct Level(Arc<AtomicI64>);

impl Level {
    pub(super) fn hold(&self) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self.0.clone())
    }

    pub(super) fn rise(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(super) fn fall(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(super) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Keeps a level up by one until it is dropped.
#[derive(Debug)]
#[must_use = "the level falls when this is dropped"]
pub struct Held(Arc<AtomicI64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counters of the statuses 100 to 599 and of whatever else there may be. The hundred counters of a class come into being with
/// its first answer, because most routes only ever see two or three classes with one method.
#[derive(Default)]
pub(super) struct ByStatus {
    classes: [OnceLock<Box<[AtomicU64; 100]>>; 5],
    other: AtomicU64,
}

impl ByStatus {
    /// The statuses that HTTP has, and one for the rest.
    pub(super) const SERIES: usize = 501;

    pub(super) fn add(&self, status: u16) {
        let (class, rest) = (usize::from(status / 100), usize::from(status % 100));
        let counter = match class.checked_sub(1).and_then(|class| self.classes.get(class)) {
            Some(class) => &Self::begun(class)[rest],
            None => &self.other,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Takes in what another one has counted.
    pub(super) fn add_all(&self, other: &Self) {
        for (own, other) in self.classes.iter().zip(&other.classes) {
            let Some(other) = other.get() else { continue };
            for (own, other) in Self::begun(own).iter().zip(other.iter()) {
                own.fetch_add(other.load(Relaxed), Relaxed);
            }
        }
        self.other.fetch_add(other.other.load(Relaxed), Relaxed);
    }

    fn begun(class: &OnceLock<Box<[AtomicU64; 100]>>) -> &[AtomicU64; 100] {
        class.get_or_init(|| Box::new([const { AtomicU64::new(0) }; 100]))
    }

    /// Calls `visit` with every status that was seen.
    pub(super) fn each(&self, mut visit: impl FnMut(&str, u64)) {
        for (class, counters) in self.classes.iter().enumerate() {
            for (rest, counter) in counters.get().into_iter().flat_map(|counters| counters.iter().enumerate())
            {
                match counter.load(Relaxed) {
                    0 => {}
                    count => visit(&((class + 1) * 100 + rest).to_string(), count),
                }
            }
        }
        match self.other.load(Relaxed) {
            0 => {}
            count => visit("other", count),
        }
    }
}

/// How many durations were within each of some bounds.
pub(super) struct Histogram<const N: usize> {
    /// In tenths of microseconds: years of a thousand requests at a time, and exact enough for the shortest bound.
    sum: AtomicU64,
    within: [AtomicU64; N],
    beyond: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Histogram {
            sum: AtomicU64::new(0),
            within: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// `bounds` are in seconds, and ascend.
    pub(super) fn observe(&self, bounds: &[f64; N], took: Duration) {
        let seconds = took.as_secs_f64();
        let place = bounds.iter().position(|bound| seconds <= *bound);
        place.map_or(&self.beyond, |place| &self.within[place]).fetch_add(1, Relaxed);
        self.sum.fetch_add(u64::try_from(took.as_nanos() / 100).unwrap_or(u64::MAX), Relaxed);
    }

    /// Takes in what another one has seen.
    pub(super) fn add(&self, other: &Self) {
        let pairs = self.within.iter().zip(&other.within);
        for (own, other) in pairs.chain([(&self.beyond, &other.beyond), (&self.sum, &other.sum)]) {
            own.fetch_add(other.load(Relaxed), Relaxed);
        }
    }

    /// The sum in seconds, how many lay within each bound or a lower one, and how many there were.
    pub(super) fn seen(&self) -> (f64, [u64; N], u64) {
        let mut total = 0;
        let within = self.within.each_ref().map(|count| {
            total += count.load(Relaxed);
            total
        });
        (self.sum.load(Relaxed) as f64 / 1e7, within, total + self.beyond.load(Relaxed))
    }
}

/// A copy for each of a few threads, so that those who count at the same time do not wait for each other's cache lines. It comes into
/// being when its thread counts for the first time.
pub(super) struct PerThread<T>([OnceLock<Box<T>>; COPIES]);

impl<T> Default for PerThread<T> {
    fn default() -> Self {
        PerThread([const { OnceLock::new() }; COPIES])
    }
}

impl<T: Default> PerThread<T> {
    pub(super) fn own(&self) -> &T {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static COPY: usize = THREADS.fetch_add(1, Relaxed) % COPIES);
        COPY.with(|copy| self.0[*copy].get_or_init(Box::default))
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get).map(|copy| &**copy)
    }
}

/// More threads share them.
const COPIES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_within_its_bound_and_all_above() {
        let (one, other) = (Histogram::default(), Histogram::default());
        let bounds = [0.001, 0.01];
        for micros in [0, 1000, 1001] {
            one.observe(&bounds, Duration::from_micros(micros));
        }
        other.observe(&bounds, Duration::from_secs(2));

        one.add(&other);

        assert_eq!(one.seen(), (2.002001, [2, 3], 4));
    }

    #[test]
    fn each_thread_counts_and_nothing_is_lost() {
        let counts = PerThread::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * COPIES {
                scope.spawn(|| counts.own().fetch_add(1, Relaxed));
            }
        });
        let all: u64 = counts.each().map(|count| count.load(Relaxed)).sum();
        assert_eq!(all, 2 * COPIES as u64);
    }

    #[test]
    fn a_level_falls_when_it_is_let_go() {
        let level = Level::default();
        let (first, second) = (level.hold(), level.hold());
        assert_eq!(level.get(), 2);
        drop(first);
        assert_eq!(level.get(), 1);
        drop(second);
        assert_eq!(level.get(), 0);
    }

    #[test]
    fn statuses_outside_of_http_are_counted_too() {
        let seen = ByStatus::default();
        [0, 99, 100, 200, 200, 599, 600, 999].into_iter().for_each(|status| seen.add(status));

        let all = ByStatus::default();
        [&seen, &ByStatus::default()].into_iter().for_each(|copy| all.add_all(copy));
        let mut counts = Vec::new();
        all.each(|code, count| counts.push((code.to_owned(), count)));

        let expected = [("100", 1), ("200", 2), ("599", 1), ("other", 4)];
        assert_eq!(counts, expected.map(|(code, count)| (code.to_owned(), count)));
    }
}
