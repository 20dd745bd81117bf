//! The limits on requests in flight: the gateway's own, and those that routes set for themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pingora::proxy::Session;

use super::ctx::RequestCtx;
use super::exchange::attended;
use crate::error::GatewayError;
use crate::policy::bulkhead::{Admission, Bulkhead};

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

/// The limits of the request's route, if it has any.
pub(super) fn bulkhead(ctx: &RequestCtx) -> Option<Arc<Bulkhead>> {
    ctx.function()?.policy.bulkhead.clone()
}

/// Takes one of the route's places. Where there is none, waits in the route's queue, for as long as the client is there.
pub(super) async fn take_place(
    session: &mut Session,
    ctx: &mut RequestCtx,
    bulkhead: Arc<Bulkhead>,
) -> Result<(), GatewayError> {
    let queued = match bulkhead.ask() {
        Admission::Come(place) => {
            ctx.place = Some(place);
            return Ok(());
        }
        Admission::Wait(queued) => queued,
        Admission::Full => return Err(GatewayError::Overloaded),
    };
    let left = ctx.remaining()?;
    let _queued = ctx.function().map(|function| function.metrics.queue());
    let begun = Instant::now();
    let place = attended(session, async { Ok(queued.place(left).await) }).await;
    ctx.queued = Some(begun.elapsed());
    ctx.place = place?;
    if ctx.place.is_none() {
        ctx.remaining()?;
        return Err(GatewayError::Overloaded);
    }
    Ok(())
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
