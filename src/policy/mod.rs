//! Policies: whether and when a function is called once more, and how long a call waits for a function that is not there yet.
//!
//! Pure decisions and the little state they need. Nothing here sends, answers, logs or counts.

mod backoff;
pub mod cold_start;
pub mod retry;

pub use self::backoff::Backoff;
use self::cold_start::ColdStart;
use self::retry::{Condition, Retry};
use crate::diag::Scope;

/// What a route says about calls that fail.
#[derive(Debug, Default)]
pub struct Policy {
    pub retry: Option<Retry>,
    pub cold_start: Option<ColdStart>,
}

impl Policy {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.retry.is_none() && self.cold_start.is_none()
    }

    pub fn tries_again_on(&self, what: Condition) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.on.contains(&what))
    }
}

/// Compiles a route's keys. `scope` stands at the route.
pub fn compile(
    retry: Option<retry::Raw>,
    cold_start: Option<cold_start::Raw>,
    scope: &Scope<'_>,
) -> Option<Policy> {
    let retry = match retry {
        Some(raw) => retry::compile(raw, &scope.key("retry")).map(Some),
        None => Some(None),
    };
    let cold_start = match cold_start {
        Some(raw) => cold_start::compile(raw, &scope.key("cold_start")).map(Some),
        None => Some(None),
    };
    Some(Policy { retry: retry?, cold_start: cold_start? })
}
