//! `Retry`: which failed attempts are worth another one, and how many of them a route may afford.
//!
//! The first safe resend (a pooled connection that was dead, an address that refused) is not decided here: every route has it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::backoff::Backoff;
use crate::diag::{Invalid, Scope, did_you_mean};
use crate::values::Written;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The most attempts of one request, the first one included (default 2)
    #[schemars(range(min = 2, max = 10))]
    pub attempts: Option<u32>,
    /// What is tried again: `connect`, `reused`, `reset`, `timeout`, or one of the statuses 429, 502, 503, 504 (default: connect, reused)
    #[schemars(length(min = 1))]
    pub on: Option<Vec<Written>>,
    /// Which methods: the `idempotent` ones (default), or `any`
    pub methods: Option<RawMethods>,
    /// The share of the last seconds' requests that may be tried again (default 20%)
    #[schemars(extend("examples" = ["20%"]))]
    pub budget: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawMethods {
    Idempotent,
    Any,
}

pub fn compile(raw: Raw, scope: &Scope<'_>) -> Option<Retry> {
    let Raw { attempts, on, methods, budget } = raw;
    let conditions = scope.key("on");
    let on: Vec<_> = match on {
        None => vec![Some(Condition::Connect), Some(Condition::Reused)],
        Some(on) => {
            let parse =
                |(i, written): (usize, &Written)| conditions.index(i).accept(parse_condition(written));
            on.iter().enumerate().map(parse).collect()
        }
    };
    let percent = match budget {
        None => Some(BUDGET),
        Some(written) => scope.key("budget").accept(parse_percent(&written)),
    };
    Some(Retry {
        attempts: attempts.unwrap_or(ATTEMPTS),
        on: on.into_iter().collect::<Option<_>>()?,
        methods: match methods.unwrap_or(RawMethods::Idempotent) {
            RawMethods::Idempotent => Methods::Idempotent,
            RawMethods::Any => Methods::Any,
        },
        budget: Budget::new(percent?, Instant::now()),
    })
}

fn parse_condition(written: &Written) -> Result<Condition, Invalid> {
    let text = written.to_string();
    let known = ["connect", "reused", "reset", "timeout", "429", "502", "503", "504"];
    let condition = match text.as_str() {
        "connect" => Condition::Connect,
        "reused" => Condition::Reused,
        "reset" => Condition::Reset,
        "timeout" => Condition::Timeout,
        "429" | "502" | "503" | "504" => Condition::Status(text.parse().unwrap_or_default()),
        _ => {
            let invalid = Invalid::new(format!("`{text}` is nothing that can be tried again"));
            return Err(match did_you_mean(&text, known) {
                Some(known) => invalid.hint(format!("did you mean `{known}`?")),
                None => {
                    invalid.hint(format!("one of {}", known.map(|known| format!("`{known}`")).join(", ")))
                }
            });
        }
    };
    Ok(condition)
}

fn parse_percent(text: &str) -> Result<u32, Invalid> {
    let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    number
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| Invalid::new(format!("`{text}` is not a share")).hint("`1%` to `100%`"))
}

/// What a route says about trying again.
#[derive(Debug)]
pub struct Retry {
    /// The most attempts of one request, the first one included.
    pub attempts: u32,
    pub on: Vec<Condition>,
    pub methods: Methods,
    pub budget: Budget,
}

/// What went wrong with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// No connection could be made: nothing was sent.
    Connect,
    /// A pooled connection was gone before the first byte of an answer.
    Reused,
    /// A new connection broke off before the first byte of an answer.
    Reset,
    /// The function was silent for too long.
    Timeout,
    /// It answered with this status.
    Status(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// Those that may be repeated by their definition (RFC 9110 section 9.2.2).
    Idempotent,
    Any,
}

impl Retry {
    /// Whether one more attempt is allowed after `made` of them; takes it from the budget if so.
    pub fn allows(&self, what: Condition, is_idempotent: bool, made: u32, now: Instant) -> bool {
        // What was never sent, or turned away at the door, may be repeated whatever it is.
        let was_not_run = matches!(what, Condition::Connect | Condition::Status(429));
        let is_safe = was_not_run || is_idempotent || self.methods == Methods::Any;
        made < self.attempts && is_safe && self.on.contains(&what) && self.budget.take(now)
    }

    /// How long to wait first, which is at least what the function asks for in `Retry-After`. Nothing when it asks for more than a
    /// client should be kept waiting: then its answer is the client's.
    pub fn delay(&self, failed: u32, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked.unwrap_or_default();
        (asked <= LONGEST_ASKED).then(|| BACKOFF.delay(failed).max(asked))
    }
}

/// The part of a route's requests that may be tried again, counted over the last seconds: a function that fails is not hit harder.
#[derive(Debug)]
pub struct Budget {
    percent: u32,
    window: Mutex<Window>,
    /// The window's seconds are counted from here.
    start: Instant,
}

#[derive(Debug, Default)]
struct Window {
    seconds: [Second; WINDOW],
}

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    /// Which second this is; what is older than the window counts no more.
    number: u64,
    requests: u32,
    retries: u32,
}

impl Budget {
    pub fn new(percent: u32, now: Instant) -> Self {
        Budget { percent, window: Mutex::default(), start: now }
    }

    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// A request has come, whatever becomes of it.
    pub fn request(&self, now: Instant) {
        self.with_second(now, |_, second| second.requests += 1);
    }

    fn take(&self, now: Instant) -> bool {
        self.with_second(now, |(requests, retries), second| {
            let allowed = (u64::from(requests) * u64::from(self.percent) / 100).max(AT_LEAST);
            let is_left = u64::from(retries) < allowed;
            second.retries += u32::from(is_left);
            is_left
        })
    }

    /// Gives the sums of the window and the second that is running.
    fn with_second<T>(&self, now: Instant, act: impl FnOnce((u32, u32), &mut Second) -> T) -> T {
        let number = now.saturating_duration_since(self.start).as_secs();
        // A panic while it was held would have been in one of two additions.
        let mut window = self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let oldest = number.saturating_sub(WINDOW as u64 - 1);
        let sums = window
            .seconds
            .iter()
            .filter(|second| second.number >= oldest)
            .fold((0, 0), |(requests, retries), second| {
                (requests + second.requests, retries + second.retries)
            });
        let place = usize::try_from(number % WINDOW as u64).unwrap_or(0);
        let second = &mut window.seconds[place];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        act(sums, second)
    }
}

const ATTEMPTS: u32 = 2;
const BUDGET: u32 = 20;
/// Seconds.
const WINDOW: usize = 10;
/// With few requests, a share of them would be none.
const AT_LEAST: u64 = 3;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(25), longest: Duration::from_secs(1) };
const LONGEST_ASKED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(on: &[Condition], methods: Methods) -> Retry {
        Retry { attempts: 3, on: on.into(), methods, budget: Budget::new(20, Instant::now()) }
    }

    #[test]
    fn only_what_is_named_and_safe_is_tried_again() {
        let now = Instant::now();
        let careful =
            retry(&[Condition::Connect, Condition::Reset, Condition::Status(503)], Methods::Idempotent);
        assert!(careful.allows(Condition::Connect, false, 1, now));
        assert!(careful.allows(Condition::Reset, true, 1, now));
        assert!(!careful.allows(Condition::Reset, false, 1, now));
        assert!(!careful.allows(Condition::Timeout, true, 1, now));
        assert!(!careful.allows(Condition::Status(502), true, 1, now));
        let bold = retry(&[Condition::Status(503)], Methods::Any);
        assert!(bold.allows(Condition::Status(503), false, 2, now));
        assert!(!bold.allows(Condition::Status(503), false, 3, now));
    }

    #[test]
    fn a_budget_is_a_share_of_the_last_seconds() {
        let start = Instant::now();
        let budget = Budget::new(20, start);
        let granted =
            |at, asked: usize| (0..asked).filter(|_| budget.take(start + Duration::from_secs(at))).count();
        assert_eq!(granted(0, 10), 3, "a few are always allowed");
        (0..100).for_each(|_| budget.request(start + Duration::from_secs(1)));
        assert_eq!(granted(2, 50), 17, "a fifth of a hundred, less what was taken");
        assert_eq!(granted(5, 50), 0);
        assert_eq!(granted(10, 50), 3, "those of the first second count no more");
        assert_eq!(granted(30, 50), 3, "the window is empty again");
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        let retry = retry(&[], Methods::Any);
        assert!(retry.delay(1, None).unwrap() <= Duration::from_millis(25));
        assert_eq!(retry.delay(1, Some(Duration::from_secs(2))), Some(Duration::from_secs(2)));
        assert_eq!(retry.delay(1, Some(Duration::from_secs(60))), None);
    }
}
