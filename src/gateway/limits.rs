//! The gateway's own limit on requests in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::GatewayError;

/// How many requests are between their head and their last byte.
#[derive(Debug, Clone, Default)]
pub(super) struct Load(Arc<AtomicUsize>);

/// One request's share; given back on drop.
#[derive(Debug)]
pub(super) struct InFlight(Arc<AtomicUsize>);

impl Load {
    pub(super) fn enter(&self, limit: usize) -> Result<InFlight, GatewayError> {
        let entered = InFlight(Arc::clone(&self.0));
        if self.0.fetch_add(1, Ordering::AcqRel) < limit {
            Ok(entered)
        } else {
            Err(GatewayError::Overloaded)
        }
    }

    pub(super) fn now(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_request_takes_no_place() {
        let load = Load::default();
        let first = load.enter(1).unwrap();
        assert_eq!(load.enter(1).unwrap_err(), GatewayError::Overloaded);
        assert_eq!(load.now(), 1);
        drop(first);
        assert!(load.enter(1).is_ok());
    }
}
