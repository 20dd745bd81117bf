//! The end of the process, as clients hear of it.
//!
//! A kept connection must not be closed under a client that is about to use it. So its end is said with an answer first; what
//! stays idle after that is closed when nobody can be surprised any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pingora::proxy::Session;
use tokio::time::{Instant, sleep};

use super::limits::Load;

#[derive(Debug, Clone)]
pub struct Leaving {
    announced: Arc<AtomicBool>,
    load: Load,
}

impl Leaving {
    pub(super) fn new(load: Load) -> Self {
        Leaving { announced: Arc::default(), load }
    }

    /// From now on each answer over HTTP/1 says that its connection ends with it.
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// Ends when no request has been in flight for this long: whoever was told before that a connection is kept has had time to
    /// use it once more.
    pub async fn quiet(&self, long: Duration) {
        let mut last_seen = Instant::now();
        while last_seen.elapsed() < long {
            sleep(LOOKED_AT).await;
            if self.load.now() > 0 {
                last_seen = Instant::now();
            }
        }
    }

    /// To be called before an answer begins.
    pub(super) fn tell(&self, session: &mut Session) {
        if self.announced.load(Ordering::Acquire) {
            session.set_keepalive(None);
        }
    }
}

/// Requests that fit in between were told.
const LOOKED_AT: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_begins_with_the_end_of_the_last_request() {
        let load = Load::default();
        let leaving = Leaving::new(load.clone());
        let request = load.enter(1).unwrap();
        let start = Instant::now();
        tokio::spawn(async move {
            sleep(Duration::from_secs(5)).await;
            drop(request);
        });

        leaving.quiet(Duration::from_secs(1)).await;

        let took = start.elapsed();
        assert!(took >= Duration::from_secs(6) - LOOKED_AT && took < Duration::from_secs(7), "{took:?}");
    }
}
