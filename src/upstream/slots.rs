//! `Slots`: at most N long-kept connections to one address, on a pool that knows no such bound.
//!
//! Pingora pools by a hash in which we choose one number. Each request takes the lowest free of N bits and puts it into that number,
//! so that each bit owns at most one idle connection; requests beyond N share one group. The lowest bit first keeps low connections
//! busy and lets high ones age out.
//!
//! What is left in the pool is known here as well: since when under each bit, and how many connections at most for the surplus. So
//! one look at all slots, now and then, finds what has been idle for long enough, and no request has to set a timer for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Slots {
    words: Box<[AtomicU64]>,
    /// When a request gave each slot back, in milliseconds after `born`; `NOTHING` when no connection can be left under it.
    left: Box<[AtomicU64]>,
    surplus: Surplus,
    /// Slots from this one on were never asked for, so nothing is kept under them; 0 is no request at all.
    used: AtomicU32,
    born: Instant,
}

/// Requests without a slot, and what their connections can be.
#[derive(Debug, Default)]
struct Surplus {
    now: AtomicU32,
    /// The most at a time since the last look.
    most: AtomicU32,
    /// As many connections can be open as there were requests at a time.
    open: AtomicU32,
}

/// A slot taken; given back on drop.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Kept(u32),
    /// Taken by somebody who closes what is left under it.
    Swept(u32),
    Surplus,
    /// Its connection does not go back to the pool.
    Nowhere,
}

impl Slots {
    pub(super) fn new(count: u32) -> Arc<Self> {
        let words = (0..count.div_ceil(u64::BITS)).map(|word| {
            let usable = (count - word * u64::BITS).min(u64::BITS);
            // Bits beyond `count` are taken for ever.
            AtomicU64::new(u64::MAX.checked_shl(usable).unwrap_or(0))
        });
        Arc::new(Slots {
            words: words.collect(),
            left: (0..count).map(|_| AtomicU64::new(NOTHING)).collect(),
            surplus: Surplus::default(),
            used: AtomicU32::new(0),
            born: Instant::now(),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.left.len()
    }

    /// Takes the lowest free slot, if there is one, under which nothing has been idle for so long: what was, is about to be closed by
    /// whoever comes first, the sweep or the other side.
    pub(super) fn take(self: &Arc<Self>, now: Instant, idle: Duration) -> Slot {
        let oldest = self.clock(now).saturating_sub(millis(idle));
        let index = self.take_lowest(|index| self.left[index as usize].load(Ordering::Relaxed) > oldest);
        let used = index.unwrap_or(0) + 1;
        if used > self.used.load(Ordering::Relaxed) {
            self.used.fetch_max(used, Ordering::Relaxed);
        }
        let place = match index {
            Some(index) => Place::Kept(index),
            None => {
                let now = self.surplus.now.fetch_add(1, Ordering::AcqRel) + 1;
                self.surplus.most.fetch_max(now, Ordering::AcqRel);
                Place::Surplus
            }
        };
        Slot { slots: Arc::clone(self), place }
    }

    /// Takes the lowest free slot, for who does not want to use it, but to close what is left under it.
    pub(super) fn seize(self: &Arc<Self>) -> Option<Slot> {
        let index = self.take_lowest(|_| true)?;
        Some(Slot { slots: Arc::clone(self), place: Place::Swept(index) })
    }

    /// Takes the free slots under which a connection can have been idle for so long.
    pub(super) fn stale(self: &Arc<Self>, idle: Duration) -> Vec<Slot> {
        let oldest = self.clock(Instant::now()).saturating_sub(millis(idle));
        let indices = (0u32..).zip(&self.left).filter(|(_, left)| left.load(Ordering::Acquire) <= oldest);
        indices.filter_map(|(index, _)| self.claim(index, oldest)).collect()
    }

    /// Takes this slot, if nobody has it and nobody had it since `oldest`.
    fn claim(self: &Arc<Self>, index: u32, oldest: u64) -> Option<Slot> {
        let (word, bit) = self.bit(index);
        if word.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return None;
        }
        // A request may have had it after the first look.
        if self.left[index as usize].load(Ordering::Acquire) > oldest {
            word.fetch_and(!bit, Ordering::AcqRel);
            return None;
        }
        Some(Slot { slots: Arc::clone(self), place: Place::Swept(index) })
    }

    /// How many connections of the surplus nobody has needed since this was asked last.
    pub(super) fn unneeded(&self) -> u32 {
        let Surplus { now, most, open } = &self.surplus;
        let needed = most.swap(now.load(Ordering::Acquire), Ordering::AcqRel);
        open.swap(needed, Ordering::AcqRel).saturating_sub(needed)
    }

    /// Whether there was ever a request with this slot.
    pub(super) fn is_used(&self, index: u32) -> bool {
        index < self.used.load(Ordering::Relaxed)
    }

    /// Whether a request without a slot is under way, or was since the last look.
    pub(super) fn has_surplus(&self) -> bool {
        self.surplus.most.load(Ordering::Acquire) > 0 || self.surplus.open.load(Ordering::Acquire) > 0
    }

    fn take_lowest(&self, suits: impl Fn(u32) -> bool) -> Option<u32> {
        for (word, bits) in (0u32..).zip(&self.words) {
            let first = word * u64::BITS;
            let mut lowest = None;
            let taken = bits.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |bits| {
                let mut free = (bits.trailing_ones()..u64::BITS).filter(|bit| bits & (1 << bit) == 0);
                lowest = free.find(|bit| suits(first + bit));
                lowest.map(|bit| bits | 1 << bit)
            });
            if taken.is_ok() {
                return lowest.map(|bit| first + bit);
            }
        }
        None
    }

    fn bit(&self, index: u32) -> (&AtomicU64, u64) {
        (&self.words[(index / u64::BITS) as usize], 1 << (index % u64::BITS))
    }

    /// Never 0, which is before every time.
    fn clock(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.born)) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NOTHING - 2)
}

/// Later than any time.
const NOTHING: u64 = u64::MAX;

impl Slot {
    /// As a request takes it whose connection never goes back to the pool: the slot is free for others.
    pub(super) fn leave(&mut self) {
        let left = Slot { slots: Arc::clone(&self.slots), place: Place::Nowhere };
        *self = left;
    }

    /// Its number; `None` for the surplus.
    pub(super) fn index(&self) -> Option<u32> {
        match self.place {
            Place::Kept(index) | Place::Swept(index) => Some(index),
            Place::Surplus | Place::Nowhere => None,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Slot { slots, place } = self;
        let (index, left) = match *place {
            Place::Kept(index) => (index, slots.clock(Instant::now())),
            Place::Swept(index) => (index, NOTHING),
            Place::Surplus => {
                slots.surplus.now.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            Place::Nowhere => return,
        };
        slots.left[index as usize].store(left, Ordering::Release);
        let (word, bit) = slots.bit(index);
        word.fetch_and(!bit, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn take(slots: &Arc<Slots>) -> Slot {
        slots.take(Instant::now(), Duration::from_secs(3600))
    }

    #[test]
    fn the_lowest_free_slot_is_taken_and_given_back() {
        let slots = Slots::new(2);
        let first = take(&slots);
        let second = take(&slots);
        assert_eq!((first.index(), second.index(), take(&slots).index()), (Some(0), Some(1), None));
        drop(first);
        assert_eq!(take(&slots).index(), Some(0));
    }

    #[track_caller]
    fn check_stale(slots: &Arc<Slots>, idle: Duration, expected: &[u32]) {
        let stale: Vec<_> = slots.stale(idle).iter().filter_map(Slot::index).collect();
        assert_eq!(stale, expected);
    }

    #[test]
    fn a_slot_is_stale_when_it_was_given_back_long_ago() {
        let slots = Slots::new(70);
        check_stale(&slots, Duration::ZERO, &[]);
        let taken: Vec<_> = (0..66).map(|_| take(&slots)).collect();
        check_stale(&slots, Duration::ZERO, &[]);
        let (mut kept, mut free) = (Vec::new(), Vec::new());
        for slot in taken {
            let is_free = slot.index().is_some_and(|index| index == 1 || index == 65);
            if is_free { &mut free } else { &mut kept }.push(slot);
        }
        drop(free);
        check_stale(&slots, Duration::from_secs(3600), &[]);
        let held = slots.stale(Duration::ZERO);
        assert_eq!(held.iter().filter_map(Slot::index).collect::<Vec<_>>(), [1, 65]);
        // While it is swept, nobody else gets it; afterwards nothing is left there.
        assert_eq!(take(&slots).index(), Some(66));
        check_stale(&slots, Duration::ZERO, &[66]);
        drop(held);
        assert_eq!(take(&slots).index(), Some(1));
        check_stale(&slots, Duration::ZERO, &[1]);
        check_stale(&slots, Duration::ZERO, &[]);
    }

    #[test]
    fn what_is_old_when_it_is_asked_for_is_left_to_the_sweep() {
        let slots = Slots::new(66);
        let before = Instant::now();
        let taken: Vec<_> = (0..66).map(|_| take(&slots)).collect();
        let idle = Duration::from_secs(4);
        // All but one are given back, and one of these is used again later.
        let (kept, free): (Vec<_>, Vec<_>) = taken.into_iter().partition(|slot| slot.index() == Some(65));
        drop(free);
        assert_eq!(slots.take(before + idle / 2, idle).index(), Some(0));
        let later = Instant::now() + idle;
        assert_eq!(slots.take(later, idle).index(), None);
        drop(kept);
        slots.left[64].store(slots.clock(later), Ordering::Relaxed);
        assert_eq!(slots.take(later, idle).index(), Some(64));
        // Nothing of it was lost, and what was swept has no age.
        assert_eq!(slots.stale(Duration::ZERO).len(), 66);
        assert_eq!(slots.take(later, idle).index(), Some(0));
    }

    #[test]
    fn a_slot_that_was_used_after_the_look_is_found_by_the_next() {
        let slots = Slots::new(1);
        let before = 0;
        drop(take(&slots));
        assert!(slots.claim(0, before).is_none());
        assert_eq!(take(&slots).index(), Some(0), "it is free");
        assert!(slots.claim(0, before).is_none());
        check_stale(&slots, Duration::ZERO, &[0]);
    }

    #[test]
    fn the_surplus_is_what_was_not_needed_since_the_last_look() {
        let slots = Slots::new(1);
        let held = take(&slots);
        assert!(!slots.has_surplus());
        let burst: Vec<_> = (0..3).map(|_| take(&slots)).collect();
        assert!(slots.has_surplus());
        assert_eq!(slots.unneeded(), 0);
        drop(burst);
        let one = take(&slots);
        // All three were in use in this while, and only one in the next.
        assert_eq!((slots.unneeded(), slots.unneeded()), (0, 2));
        drop(one);
        assert_eq!((slots.unneeded(), slots.unneeded()), (0, 1));
        assert!(!slots.has_surplus());
        drop(held);
    }

    #[test]
    fn a_connection_that_does_not_come_back_leaves_its_slot_to_others() {
        let slots = Slots::new(1);
        let (mut tunnel, mut surplus) = (take(&slots), take(&slots));
        surplus.leave();
        tunnel.leave();
        assert_eq!((tunnel.index(), take(&slots).index()), (None, Some(0)));
        assert_eq!((slots.unneeded(), slots.unneeded()), (0, 1));
    }

    #[test]
    fn more_than_a_word_of_slots() {
        for count in [1, 63, 64, 65, 130] {
            let slots = Slots::new(count);
            let taken: Vec<_> = (0..count).map(|_| take(&slots)).collect();
            let indices: HashSet<_> = taken.iter().filter_map(Slot::index).collect();
            assert_eq!(indices, (0..count).collect::<HashSet<_>>());
            assert_eq!(take(&slots).index(), None, "{count}");
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
                        let slot = take(&slots);
                        let Some(index) = slot.index() else { continue };
                        assert_eq!(held[index as usize].fetch_add(1, Ordering::SeqCst), 0);
                        held[index as usize].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(take(&slots).index(), Some(0));
    }
}
