//! Everything between the accepted socket and Pingora's HTTP session.
//!
//! Owns what a request's bytes must be (`head`, `chunked`). Rule: refuse, never repair. What gets through is passed on byte for byte. It knows no route and
//! no platform, and never decides anything that a filter of the proxy can decide.

mod chunked;
mod grammar;
mod head;

pub use head::HeadLimits;

/// Why a request is not passed on. Holds fixed text only, so that all of it may be shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub reason: &'static str,
}
