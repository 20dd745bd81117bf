//! The deadline of whatever a connection waits for.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;
use tokio::time::{Instant, Sleep};

/// One timer per connection. It is set anew only when a deadline comes nearer than it stands; when it goes off too early, it
/// moves on to the deadline. So requests that follow each other cost no timer operation.
#[derive(Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken when it goes off.
    sleeper: Option<Waker>,
}

impl Alarm {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.will_wake(cx, at) {
            return Poll::Pending;
        }
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            // Whom tokio sends back for the sake of other tasks does not sleep yet.
            self.sleeper = coop::has_budget_remaining().then(|| cx.waker().clone());
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }

    /// Whether it will go off in time and has not yet, so that there is nothing to do: mostly so.
    fn will_wake(&self, cx: &Context<'_>, at: Instant) -> bool {
        let Some(sleep) = &self.sleep else { return false };
        let is_awaited = self.sleeper.as_ref().is_some_and(|sleeper| sleeper.will_wake(cx.waker()));
        is_awaited && sleep.deadline() <= at && !sleep.is_elapsed()
    }
}
