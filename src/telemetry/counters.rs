//! What metrics are made of: levels that go up and down, and counters by status.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

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
            Some(class) => &class.get_or_init(|| Box::new([const { AtomicU64::new(0) }; 100]))[rest],
            None => &self.other,
        };
        counter.fetch_add(1, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

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

        let mut counts = Vec::new();
        seen.each(|code, count| counts.push((code.to_owned(), count)));

        let expected = [("100", 1), ("200", 2), ("599", 1), ("other", 4)];
        assert_eq!(counts, expected.map(|(code, count)| (code.to_owned(), count)));
    }
}
