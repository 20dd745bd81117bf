//! Policies: whether and when a function is called once more, how long a call waits for a function that is not there yet, and
//! how many calls there may be at once.
//!
//! Pure decisions and the little state they need. Nothing here sends, answers, logs or counts.

pub mod bulkhead;
pub mod cold_start;
pub mod retry;

use std::sync::Arc;

use self::bulkhead::Bulkhead;
use self::cold_start::ColdStart;
use self::retry::{Condition, Retry};
use crate::diag::{Scope, given};

/// What a route says about its calls.
#[derive(Debug, Default)]
pub struct Policy {
    pub retry: Option<Retry>,
    pub cold_start: Option<ColdStart>,
    pub bulkhead: Option<Arc<Bulkhead>>,
}

impl Policy {
    /// Whether a call that failed has failed, and none waits for a function that is not there.
    pub fn calls_once(&self) -> bool {
        self.retry.is_none() && self.cold_start.is_none()
    }

    /// The same route's policy before a reload: who is under way goes on counting, unless the limits are others now.
    pub fn succeed(&mut self, previous: &Policy) {
        if let (Some(bulkhead), Some(known)) = (&mut self.bulkhead, &previous.bulkhead)
            && bulkhead.is_like(known)
        {
            *bulkhead = Arc::clone(known);
        }
    }

    pub fn tries_again_on(&self, what: Condition) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.on.contains(&what))
    }
}

/// Compiles a route's keys. `scope` stands at the route.
pub fn compile(
    retry: Option<retry::Raw>,
    cold_start: Option<cold_start::Raw>,
    limits: Option<bulkhead::Raw>,
    scope: &Scope<'_>,
) -> Option<Policy> {
    let retry = given(retry, |raw| retry::compile(raw, &scope.key("retry")));
    let cold_start = given(cold_start, |raw| cold_start::compile(raw, &scope.key("cold_start")));
    let bulkhead = given(limits, |raw| bulkhead::compile(raw, &scope.key("limits")));
    Some(Policy { retry: retry?, cold_start: cold_start?, bulkhead: bulkhead? })
}
