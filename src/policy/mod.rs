//! Policies: whether and when a function is called once more, and how long a call waits for a function that is not there yet.
//!
//! Pure decisions and the little state they need. Nothing here sends, answers, logs or counts.

mod backoff;
pub mod cold_start;
pub mod retry;

pub use backoff::Backoff;
