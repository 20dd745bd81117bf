//! What every test stands on: a gateway that is the built binary, origins that record and misbehave, and clients that
//! see bytes. Nothing here knows how the gateway works inside; everything that waits has a deadline.

// The gateway.
mod command;
mod footprint;
mod gateway;
mod home;
mod lines;
mod scrape;

// The functions behind it.
mod exchange;
mod framework;
mod journal;
mod moto;
mod names;
mod origin;
mod unreachable;

// The clients before it.
mod client;

// What both sides stand on.
mod pki;
mod wire;

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub(crate) use client::{Client, Echo, Http2, Request, Response, tls};
pub(crate) use command::{check, run, run_unread, run_with};
pub(crate) use exchange::{Exchange, Reply};
pub(crate) use footprint::Footprint;
pub(crate) use framework::Framework;
pub(crate) use gateway::{BINARY, Gateway, TLS_LISTENERS};
pub(crate) use home::{free_port, local};
pub(crate) use journal::Recorded;
pub(crate) use moto::{Keys, Moto};
pub(crate) use names::{NameServer, Zone};
pub(crate) use origin::{Ending, Origin, Script};
pub(crate) use pki::{Ca, Leaf};
pub(crate) use unreachable::{Refusing, Silent, mortal};
pub(crate) use wire::Piece;

/// How long a test waits for anything that ought to happen at once. Generous, because machines are shared; it is only
/// ever used up by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// The target `openfunction` on this origin, with more keys.
pub(crate) fn openfunction(origin: &Origin, more: &str) -> String {
    format!("openfunction: {{ function_uri: '{}/', {more} }}", origin.url())
}

/// A file with one route, `hello`, on every host. `target` is the inside of the target's braces.
pub(crate) fn route(path: &str, target: &str) -> String {
    routes(&[("hello", path, target)])
}

/// A file with these routes: name, path pattern, target.
pub(crate) fn routes(routes: &[(&str, &str, &str)]) -> String {
    routes.iter().fold("routes:\n".to_owned(), |text, (name, path, target)| {
        text + &format!("  - name: {name}\n    match: {{ path: \"{path}\" }}\n    target: {{ {target} }}\n")
    })
}

/// The file with this policy for the route of this name.
pub(crate) fn with_policy(yaml: &str, route: &str, policy: &str) -> String {
    let name = format!("  - name: {route}\n");
    assert!(yaml.contains(&name), "{route} in\n{yaml}");
    yaml.replace(&name, &format!("{name}    {policy}\n"))
}

/// Asks until there is an answer, and fails the test when `deadline` passes first.
pub(crate) async fn eventually<T, F>(what: &str, deadline: Duration, mut ask: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    becomes(what, deadline, async || ask().await.ok_or("nothing")).await
}

/// The same for what can say how far it is: the failure tells what was seen last.
pub(crate) async fn becomes<T, E, F>(what: &str, deadline: Duration, mut ask: F) -> T
where
    E: Debug,
    F: AsyncFnMut() -> Result<T, E>,
{
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(seen) => assert!(Instant::now() < end, "{what}: not within {deadline:?}, at last {seen:?}"),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// The result of `future`, which must be there within the harness's patience.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// An origin that answers each request when the gate is opened for it.
pub(crate) async fn held() -> (Origin, Gate) {
    let gate = Gate::closed();
    let origin = Origin::http1().gated(&gate, |mut exchange, gate| async move {
        gate.passed().await;
        exchange.answer(Reply::text(200, "done")).await;
    });
    (origin.start().await, gate)
}

/// A barrier that the test opens step by step: every `open` lets one `passed` through, in whatever order they come.
#[derive(Clone)]
pub(crate) struct Gate(std::sync::Arc<tokio::sync::Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(std::sync::Arc::new(tokio::sync::Semaphore::new(0)))
    }

    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }

    pub(crate) async fn passed(&self) {
        within("the gate to be opened", self.0.acquire()).await.unwrap().forget();
    }
}

#[cfg(test)]
mod tests;
