//! `ColdStart`: requests for a function that is not there yet are held, and one of them at a time finds out whether it has come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::diag::Scope;
use crate::values::{Written, compile_duration};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The longest time a request is held, at most 15m
    pub hold: Written,
}

pub fn compile(raw: Raw, scope: &Scope<'_>) -> Option<ColdStart> {
    let Raw { hold } = raw;
    let scope = scope.key("hold");
    let hold = compile_duration(&hold, &scope)?;
    if hold.is_zero() || hold > LONGEST_HOLD {
        scope.reject_with(format!("`hold` is {} ms", hold.as_millis()), "1 ms to 15 minutes");
        return None;
    }
    Some(ColdStart::new(hold))
}

/// A route's waiting room.
#[derive(Debug)]
pub struct ColdStart {
    /// The longest time a request is held.
    pub hold: Duration,
    /// `None` while the function is there.
    cold: watch::Sender<Option<Cold>>,
    /// Whoever has it calls the function; all others wait.
    probe: Arc<Semaphore>,
    /// When the last probe was sent, or will be.
    probed: Mutex<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Cold {
    since: Instant,
    sign: Sign,
}

/// The last that was heard of a function that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It has no address, or nobody listens there.
    NoConnection,
    /// The platform says so itself.
    NotReady,
    /// Somebody listens at last: nobody has to wait for what he says.
    Listens,
}

/// The right to call the function.
#[derive(Debug)]
pub enum Pass {
    /// The function is there: everybody may.
    Open,
    /// This request is the one that finds out. When it is dropped without [`ColdStart::warmed`], the next one in the room is. Without
    /// a permit it looks because another one is taking its time, and does so once.
    Probe(Option<OwnedSemaphorePermit>),
}

impl ColdStart {
    pub fn new(hold: Duration) -> Self {
        ColdStart {
            hold,
            cold: watch::Sender::new(None),
            probe: Arc::new(Semaphore::new(1)),
            probed: Mutex::new(Instant::now()),
        }
    }

    /// Whether the last that was heard of the function is that it is not there.
    pub fn is_cold(&self) -> bool {
        is_shut(&self.cold.borrow())
    }

    /// Whether it was found missing a short while ago, so that it may be starting just now.
    pub fn is_starting(&self) -> bool {
        self.cold.borrow().is_some_and(|cold| cold.since.elapsed() < START)
    }

    /// The function was found missing. `true` for the first to say so.
    pub fn cooled(&self, sign: Sign) -> bool {
        let mut is_first = false;
        self.cold.send_modify(|cold| {
            is_first = cold.is_none();
            cold.get_or_insert_with(|| Cold { since: Instant::now(), sign }).sign = sign;
        });
        is_first
    }

    /// There is a new connection. Where there was none before, whoever waits may try.
    pub fn connected(&self) {
        self.cold.send_if_modified(|cold| match cold {
            Some(Cold { sign, .. }) if *sign == Sign::NoConnection => {
                *sign = Sign::Listens;
                true
            }
            _ => false,
        });
    }

    /// The function has answered: whoever waits may call it.
    pub fn warmed(&self) {
        self.cold.send_if_modified(|cold| cold.take().is_some());
    }

    /// Waits until it is this request's turn, at most until `until`. Who probed before keeps the right, and waits the longer the
    /// more of its attempts have `failed`.
    pub async fn turn(&self, kept: Option<Pass>, failed: u32, until: Instant) -> Option<Pass> {
        let turn = tokio::time::timeout_at(until, self.next(kept, failed)).await.ok()?;
        // A probe at the very end would only make the client wait for longer.
        (Instant::now() < until).then_some(turn)
    }

    async fn next(&self, kept: Option<Pass>, failed: u32) -> Pass {
        let mut cold = self.cold.subscribe();
        let permit = match kept {
            Some(Pass::Probe(Some(permit))) => Some(permit),
            _ => loop {
                tokio::select! {
                    biased;
                    // The sender lives as long as `self`.
                    _ = cold.wait_for(|cold| !is_shut(cold)) => break None,
                    permit = Arc::clone(&self.probe).acquire_owned() => break permit.ok(),
                    () = tokio::time::sleep_until(self.late()) => if self.takes_over() {
                        return Pass::Probe(None);
                    },
                }
            },
        };
        match permit {
            Some(permit) if self.is_cold() => {
                let delay = if failed > 0 { BACKOFF.delay(failed) } else { Duration::ZERO };
                *self.probed() = Instant::now() + delay;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Pass::Probe(Some(permit))
            }
            _ => Pass::Open,
        }
    }

    /// When the last probe has told nothing for so long that another one looks as well: its own client may be slow, or its call long.
    fn late(&self) -> Instant {
        *self.probed() + BACKOFF.longest
    }

    /// `true` for one of those who find it late.
    fn takes_over(&self) -> bool {
        let mut probed = self.probed();
        let now = Instant::now();
        let is_late = *probed + BACKOFF.longest <= now;
        if is_late {
            *probed = now;
        }
        is_late
    }

    fn probed(&self) -> MutexGuard<'_, Instant> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_shut(cold: &Option<Cold>) -> bool {
    cold.is_some_and(|cold| cold.sign != Sign::Listens)
}

/// No platform takes longer to start a function than it lets one run.
const LONGEST_HOLD: Duration = Duration::from_secs(900);
/// What a platform answers while it starts a function is believed to be that for so long.
const START: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test(start_paused = true)]
    async fn one_probes_and_the_others_wait_for_it() {
        let room = Arc::new(ColdStart::new(Duration::from_secs(30)));
        assert!(room.cooled(Sign::NotReady));
        assert!(!room.cooled(Sign::NotReady), "only the first one to say so");
        let probe = room.turn(None, 1, soon()).await;
        assert!(matches!(probe, Some(Pass::Probe(_))));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let room = Arc::clone(&room);
                tokio::spawn(async move { room.turn(None, 1, soon()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1900)).await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let looking = waiting.iter().filter(|task| task.is_finished()).count();
        assert_eq!(looking, 3, "one every two seconds, while the first one is not back");

        room.warmed();
        for task in waiting {
            assert!(matches!(task.await.unwrap(), Some(Pass::Open | Pass::Probe(None))));
        }
        assert!(matches!(room.turn(probe, 1, soon()).await, Some(Pass::Open) | Some(Pass::Probe(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_opens_the_room_that_the_lack_of_one_had_shut() {
        for (sign, is_shut) in [(Sign::NoConnection, false), (Sign::NotReady, true)] {
            let room = ColdStart::new(Duration::from_secs(30));
            room.cooled(sign);
            room.connected();
            assert_eq!(room.is_cold(), is_shut, "{sign:?}");
            assert!(room.is_starting());
            assert!(!room.cooled(Sign::NotReady), "it is the same start");
            assert!(room.is_cold());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_hands_the_probe_on() {
        let room = Arc::new(ColdStart::new(Duration::from_secs(30)));
        room.cooled(Sign::NotReady);
        let probe = room.turn(None, 1, soon()).await;
        let next = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.turn(None, 1, soon()).await }
        });
        drop(probe);
        assert!(matches!(next.await.unwrap(), Some(Pass::Probe(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_hold_ends() {
        let room = ColdStart::new(Duration::from_secs(30));
        room.cooled(Sign::NotReady);
        let _probe = room.turn(None, 1, soon()).await;
        let begun = Instant::now();
        assert!(room.turn(None, 1, begun + Duration::from_millis(1500)).await.is_none());
        assert_eq!(begun.elapsed().as_millis(), 1500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_waits_the_longer_the_more_have_failed() {
        let room = ColdStart::new(Duration::from_secs(30));
        room.cooled(Sign::NotReady);
        let mut probe = None;
        for (failed, longest) in [(1, 100), (2, 200), (3, 400), (9, 2000)] {
            let begun = Instant::now();
            probe = room.turn(probe, failed, soon()).await;
            let waited = begun.elapsed();
            assert!(
                waited >= Duration::from_millis(longest / 2) && waited <= Duration::from_millis(longest + 2)
            );
        }
    }
}
