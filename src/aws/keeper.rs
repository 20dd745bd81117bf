//! `Keeper`: credentials of one source, fetched in the background ahead of their expiry; no request ever fetches.
//!
//! While a renewal fails or hangs, those in use stay in use for as long as they are valid.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::lookup::http_client;
use super::{Credentials, Lookup, Source};
use crate::backoff::Backoff;
use crate::error::GatewayError;

/// Shared by everything that signs with the same source, also across reloads; its task ends with the last of them.
#[derive(Debug)]
pub struct Keeper {
    kept: Arc<Kept>,
    /// `None` for keys that stand in the configuration.
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct Kept {
    /// They may have expired meanwhile.
    found: ArcSwapOption<Credentials>,
    /// Whether the source is being asked and has not failed before: an answer is worth waiting for.
    expected: watch::Sender<bool>,
}

impl Keeper {
    /// The keeper of this source; fetching begins with the first caller.
    pub fn of(source: &Source, runtime: &tokio::runtime::Handle) -> Arc<Self> {
        static KEEPERS: LazyLock<Mutex<HashMap<Lookup, Weak<Keeper>>>> = LazyLock::new(Mutex::default);
        let lookup = match source {
            Source::Keys(credentials) => return Arc::new(Keeper::of_keys(credentials.clone())),
            Source::Lookup(lookup) => lookup,
        };
        let mut keepers = KEEPERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keepers.get(lookup).and_then(Weak::upgrade) {
            return keeper;
        }
        let kept = Arc::new(Kept::unasked());
        let fetching = keep(Arc::clone(&kept), lookup.clone());
        let keeper = Arc::new(Keeper { kept, task: Some(runtime.spawn(fetching).abort_handle()) });
        keepers.retain(|_, keeper| keeper.strong_count() > 0);
        keepers.insert(lookup.clone(), Arc::downgrade(&keeper));
        keeper
    }

    fn of_keys(credentials: Credentials) -> Self {
        let found = ArcSwapOption::from_pointee(credentials);
        Keeper { kept: Arc::new(Kept { found, expected: watch::Sender::new(false) }), task: None }
    }

    /// The credentials to sign with now; `None` before the first were found, and when all have expired.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.kept.current()
    }

    /// As [`current`](Self::current); but without any, waits for the source's answer, at most for `patience`. Once it has failed,
    /// nobody waits until it answers again.
    pub async fn ready(&self, patience: Duration) -> Result<Arc<Credentials>, GatewayError> {
        if let Some(credentials) = self.current() {
            return Ok(credentials);
        }
        let mut expected = self.kept.expected.subscribe();
        let _ = tokio::time::timeout(patience, expected.wait_for(|expected| !expected)).await;
        self.current().ok_or(GatewayError::NoCredential)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn keep(kept: Arc<Kept>, lookup: Lookup) -> Infallible {
    let client = http_client();
    kept.renew(&lookup.to_string(), || async { Ok(lookup.fetch(&client).await?) }).await
}

impl Kept {
    fn unasked() -> Self {
        Kept { found: ArcSwapOption::empty(), expected: watch::Sender::new(true) }
    }

    fn current(&self) -> Option<Arc<Credentials>> {
        let is_valid = |found: &Arc<Credentials>| found.expiry().is_none_or(|at| remaining(at).is_some());
        self.found.load_full().filter(is_valid)
    }

    /// Fetches again and again, in good time before what it has expires.
    async fn renew<F>(&self, name: &str, fetch: impl Fn() -> F) -> Infallible
    where
        F: Future<Output = anyhow::Result<Credentials>>,
    {
        let mut failures = 0;
        loop {
            self.expected.send_replace(failures == 0);
            let pause = match valid(fetch()).await {
                Ok((credentials, left)) => {
                    if failures > 0 {
                        log::info!("AWS credentials ({name}): the source answers again");
                    }
                    failures = 0;
                    self.publish(name, credentials);
                    left.map_or(UNDATED_LIFE, renewal)
                }
                Err(e) => {
                    failures += 1;
                    self.failed(name, failures, &e)
                }
            };
            self.expected.send_replace(false);
            tokio::time::sleep(pause.max(SHORTEST_PAUSE)).await;
        }
    }

    fn publish(&self, name: &str, credentials: Credentials) {
        let known = self.found.swap(Some(Arc::new(credentials.clone())));
        let is_news = known.is_none_or(|known| {
            known.digest() != credentials.digest() || known.expiry() != credentials.expiry()
        });
        if is_news {
            let expiry = credentials.expiry().map_or("never".to_owned(), written);
            log::info!("AWS credentials ({name}) found: {}, expiry {expiry}", credentials.place());
        }
    }

    /// When to try again. What has expired is forgotten.
    fn failed(&self, name: &str, failures: u32, error: &anyhow::Error) -> Duration {
        let retry = RETRY.delay(failures);
        let Some(known) = self.found.load_full() else {
            if failures == 1 {
                log::warn!("AWS credentials ({name}) are not found: {error:#}");
            }
            return retry;
        };
        match known.expiry().map(remaining) {
            Some(None) => {
                log::error!("AWS credentials ({name}) have expired and cannot be renewed: {error:#}");
                self.found.store(None);
                retry
            }
            left => {
                if failures == 1 {
                    log::warn!(
                        "AWS credentials ({name}) cannot be renewed; those known stay in use: {error:#}"
                    );
                }
                left.flatten().map_or(retry, |left| retry.min(left))
            }
        }
    }
}

/// What comes of it in time and is valid now, and for how much longer.
async fn valid(
    fetching: impl Future<Output = anyhow::Result<Credentials>>,
) -> anyhow::Result<(Credentials, Option<Duration>)> {
    let credentials = tokio::time::timeout(LONGEST_FETCH, fetching).await.context("no answer")??;
    let Some(expiry) = credentials.expiry() else { return Ok((credentials, None)) };
    let Some(left) = remaining(expiry) else {
        bail!("the source offers such as expired at {}", written(expiry))
    };
    Ok((credentials, Some(left)))
}

/// How long to wait before credentials that are valid for `left` are renewed: until a quarter of an hour before they expire, less
/// up to a third of that, so that not all gateways come at once. Short lives are renewed in their last quarter.
fn renewal(left: Duration) -> Duration {
    let ahead = (left / 4).min(LONGEST_AHEAD);
    left - ahead.mul_f64(1.0 - fastrand::f64() / 3.0)
}

fn remaining(expiry: SystemTime) -> Option<Duration> {
    expiry.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero())
}

fn written(moment: SystemTime) -> String {
    let moment = OffsetDateTime::from(moment).replace_nanosecond(0).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}

const LONGEST_AHEAD: Duration = Duration::from_secs(15 * 60);
/// Also how soon a file is seen that was changed.
const UNDATED_LIFE: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(60) };
/// The metadata service and the token service are asked several times within it.
const LONGEST_FETCH: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
