//! `ColdStart`: requests for a function that is not there yet are held, and one of them at a time finds out whether it has come.

use std::sync::Arc;
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
    /// Since when the function is missing.
    cold_since: watch::Sender<Option<Instant>>,
    /// Whoever has it calls the function; all others wait.
    probe: Arc<Semaphore>,
}

/// The right to call the function.
#[derive(Debug)]
pub enum Pass {
    /// The function is there: everybody may.
    Open,
    /// This request is the one that finds out. When it is dropped without [`ColdStart::warmed`], the next one in the room is.
    Probe(OwnedSemaphorePermit),
}

impl ColdStart {
    pub fn new(hold: Duration) -> Self {
        ColdStart { hold, cold_since: watch::Sender::new(None), probe: Arc::new(Semaphore::new(1)) }
    }

    /// Whether the last that was heard of the function is that it is not there.
    pub fn is_cold(&self) -> bool {
        self.cold_since.borrow().is_some()
    }

    /// Whether it was found missing a short while ago, so that it may be starting just now.
    pub fn is_starting(&self) -> bool {
        self.cold_since.borrow().is_some_and(|since| since.elapsed() < START)
    }

    /// The function was found missing. `true` for the first to say so.
    pub fn cooled(&self) -> bool {
        self.cold_since.send_if_modified(|since| {
            let is_first = since.is_none();
            since.get_or_insert_with(Instant::now);
            is_first
        })
    }

    /// The function has answered: whoever waits may call it.
    pub fn warmed(&self) {
        self.cold_since.send_if_modified(|since| since.take().is_some());
    }

    /// Waits until it is this request's turn, at most until `until`. Who probed before keeps the right, and waits the longer the
    /// more of its attempts have `failed`.
    pub async fn turn(&self, kept: Option<Pass>, failed: u32, until: Instant) -> Option<Pass> {
        let turn = tokio::time::timeout_at(until, self.next(kept, failed)).await.ok()?;
        // A probe at the very end would only make the client wait for longer.
        (Instant::now() < until).then_some(turn)
    }

    async fn next(&self, kept: Option<Pass>, failed: u32) -> Pass {
        let mut cold_since = self.cold_since.subscribe();
        let permit = match kept {
            Some(Pass::Probe(permit)) => Some(permit),
            _ => tokio::select! {
                biased;
                // The sender lives as long as `self`.
                _ = cold_since.wait_for(Option::is_none) => None,
                permit = Arc::clone(&self.probe).acquire_owned() => permit.ok(),
            },
        };
        match permit {
            Some(permit) if self.is_cold() => {
                if failed > 0 {
                    tokio::time::sleep(BACKOFF.delay(failed)).await;
                }
                Pass::Probe(permit)
            }
            _ => Pass::Open,
        }
    }
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
        assert!(room.cooled());
        assert!(!room.cooled(), "only the first one to say so");
        let probe = room.turn(None, 1, soon()).await;
        assert!(matches!(probe, Some(Pass::Probe(_))));
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let room = Arc::clone(&room);
                tokio::spawn(async move { room.turn(None, 1, soon()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(waiting.iter().all(|task| !task.is_finished()));

        room.warmed();
        for task in waiting {
            assert!(matches!(task.await.unwrap(), Some(Pass::Open)));
        }
        assert!(matches!(room.turn(probe, 1, soon()).await, Some(Pass::Open) | Some(Pass::Probe(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_hands_the_probe_on() {
        let room = Arc::new(ColdStart::new(Duration::from_secs(30)));
        room.cooled();
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
        room.cooled();
        let _probe = room.turn(None, 1, soon()).await;
        let begun = Instant::now();
        assert!(room.turn(None, 1, begun + Duration::from_secs(3)).await.is_none());
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_waits_the_longer_the_more_have_failed() {
        let room = ColdStart::new(Duration::from_secs(30));
        room.cooled();
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
