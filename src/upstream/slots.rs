//! `Slots`: at most N long-kept connections to one address, on a pool that knows no such bound.
//!
//! Pingora pools by a hash in which we choose one number. Each request takes the lowest free of N bits and puts it into that number,
//! so that each bit owns at most one idle connection; requests beyond N share one group with a short idle time. The lowest bit
//! first keeps low connections busy and lets high ones age out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Slots {
    words: Box<[AtomicU64]>,
    /// Slots from this one on were never asked for, so nothing is kept under them; 0 is no request at all.
    used: AtomicU32,
}

/// A slot taken; given back on drop. `None` inside: the request is surplus.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    index: Option<u32>,
}

impl Slots {
    pub(super) fn new(count: u32) -> Arc<Self> {
        let words = (0..count.div_ceil(u64::BITS)).map(|word| {
            let usable = (count - word * u64::BITS).min(u64::BITS);
            // Bits beyond `count` are taken for ever.
            AtomicU64::new(u64::MAX.checked_shl(usable).unwrap_or(0))
        });
        Arc::new(Slots { words: words.collect(), used: AtomicU32::new(0) })
    }

    /// Takes the lowest free slot, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Slot {
        let index = self.take_lowest();
        let used = index.unwrap_or(0) + 1;
        if used > self.used.load(Ordering::Relaxed) {
            self.used.fetch_max(used, Ordering::Relaxed);
        }
        Slot { slots: Arc::clone(self), index }
    }

    /// The same for who does not want to use it, but to know what was left under it.
    pub(super) fn seize(self: &Arc<Self>) -> Slot {
        Slot { slots: Arc::clone(self), index: self.take_lowest() }
    }

    /// Whether there was ever a request with this slot.
    pub(super) fn is_used(&self, index: u32) -> bool {
        index < self.used.load(Ordering::Relaxed)
    }

    fn take_lowest(&self) -> Option<u32> {
        for (word, bits) in (0u32..).zip(&self.words) {
            let taken = bits.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |bits| {
                (bits != u64::MAX).then(|| bits | (1 << bits.trailing_ones()))
            });
            if let Ok(before) = taken {
                return Some(word * u64::BITS + before.trailing_ones());
            }
        }
        None
    }
}

impl Slot {
    /// No slot, whatever is free.
    pub(super) fn none(slots: &Arc<Slots>) -> Self {
        Slot { slots: Arc::clone(slots), index: None }
    }

    pub(super) fn index(&self) -> Option<u32> {
        self.index
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            let bit = 1u64 << (index % u64::BITS);
            self.slots.words[(index / u64::BITS) as usize].fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_lowest_free_slot_is_taken_and_given_back() {
        let slots = Slots::new(2);
        let first = slots.take();
        let second = slots.take();
        assert_eq!((first.index(), second.index(), slots.take().index()), (Some(0), Some(1), None));
        drop(first);
        assert_eq!(slots.take().index(), Some(0));
    }

    #[test]
    fn more_than_a_word_of_slots() {
        for count in [1, 63, 64, 65, 130] {
            let slots = Slots::new(count);
            let taken: Vec<_> = (0..count).map(|_| slots.take()).collect();
            let indices: HashSet<_> = taken.iter().filter_map(Slot::index).collect();
            assert_eq!(indices, (0..count).collect::<HashSet<_>>());
            assert_eq!(slots.take().index(), None, "{count}");
        }
    }

    #[test]
    fn no_two_threads_hold_the_same_slot() {
        let slots = Slots::new(3);
        let held: Arc<[AtomicU64; 3]> = Arc::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let slot = slots.take();
                        let Some(index) = slot.index() else { continue };
                        assert_eq!(held[index as usize].fetch_add(1, Ordering::SeqCst), 0);
                        held[index as usize].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(slots.take().index(), Some(0));
    }
}
