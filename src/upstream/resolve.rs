//! Names, resolved in the background and published as snapshots; no request ever waits for a resolver.
//!
//! A name's time to live is honoured within bounds. When the resolver fails, the last answer stays in use.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Semaphore, SetOnce, watch};
use tokio::task::AbortHandle;

use super::names::{Answer, Names, System};

/// One name and what is known of it. Shared by all routes that use the name; its task ends with the last of them.
#[derive(Debug)]
pub struct Host {
    known: Arc<Known>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Known {
    name: String,
    addresses: ArcSwap<Vec<IpAddr>>,
    /// Set once the resolver has spoken.
    asked: SetOnce<()>,
}

/// Resolves names for as long as somebody holds their [`Host`].
#[derive(Clone)]
pub struct Resolver {
    system: Arc<System>,
    names: watch::Sender<Arc<Names>>,
    hosts: Arc<Mutex<HashMap<String, Weak<Host>>>>,
    /// Look-ups that may run at once: each takes sockets, and a configuration may have thousands of names.
    turns: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
}

impl Resolver {
    /// Resolves as this machine's resolver configuration and hosts file say.
    pub fn from_system(runtime: tokio::runtime::Handle) -> anyhow::Result<Self> {
        Self::new(System::default(), runtime)
    }

    pub(super) fn new(system: System, runtime: tokio::runtime::Handle) -> anyhow::Result<Self> {
        Ok(Resolver {
            names: watch::Sender::new(Arc::new(Names::read(&system)?)),
            system: Arc::new(system),
            hosts: Arc::default(),
            turns: Arc::new(Semaphore::new(LOOKUPS_AT_ONCE)),
            runtime,
        })
    }

    /// The host of this name; resolving begins with the first caller.
    pub fn host(&self, name: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name).and_then(Weak::upgrade) {
            return host;
        }
        let known =
            Arc::new(Known { name: name.to_owned(), addresses: ArcSwap::default(), asked: SetOnce::new() });
        let keeping = keep_resolved(Arc::clone(&known), self.names.subscribe(), Arc::clone(&self.turns));
        let host = Arc::new(Host { known, task: self.runtime.spawn(keeping).abort_handle() });
        hosts.retain(|_, host| host.strong_count() > 0);
        hosts.insert(name.to_owned(), Arc::downgrade(&host));
        host
    }

    /// Whether one of the system's files about names says something else than when it was read. Reads them.
    pub fn is_outdated(&self) -> bool {
        let names = Arc::clone(&self.names.borrow());
        names.is_outdated(&self.system)
    }

    /// Reads these files again and looks every name up anew.
    pub fn refresh(&self) {
        match Names::read(&self.system) {
            Ok(names) => drop(self.names.send_replace(Arc::new(names))),
            Err(e) => log::error!("names go on resolving as before: {e:#}"),
        }
    }
}

impl Host {
    pub fn name(&self) -> &str {
        &self.known.name
    }

    /// The last good answer; empty as long as there was none.
    pub fn addresses(&self) -> Guard<Arc<Vec<IpAddr>>> {
        self.known.addresses.load()
    }

    /// Waits until the resolver has spoken for the first time, whatever it said.
    pub async fn asked(&self) {
        self.known.asked.wait().await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks the name up again and again, and at once when the system's configuration was read again.
async fn keep_resolved(known: Arc<Known>, mut names: watch::Receiver<Arc<Names>>, turns: Arc<Semaphore>) {
    loop {
        let current = Arc::clone(&names.borrow_and_update());
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            never = known.follow(&current, &turns) => match never {},
        }
    }
}

impl Known {
    async fn follow(&self, names: &Names, turns: &Semaphore) -> Infallible {
        let mut failures = 0;
        loop {
            let turn = turns.acquire().await;
            let answer = names.look_up(&self.name).await;
            drop(turn);
            let pause = match answer {
                Ok(Answer { addresses, life }) => {
                    if failures > 0 {
                        log::info!("`{}` resolves again", self.name);
                    }
                    failures = 0;
                    self.publish(addresses);
                    life.clamp(SHORTEST_LIFE, LONGEST_LIFE)
                }
                Err(e) => {
                    failures += 1;
                    if failures == 1 {
                        let consequence = match self.addresses.load().len() {
                            0 => "no address is known".to_owned(),
                            1 => "its known address stays in use".to_owned(),
                            kept => format!("its {kept} known addresses stay in use"),
                        };
                        log::warn!("`{}` does not resolve ({e}); {consequence}", self.name);
                    }
                    SHORTEST_LIFE.saturating_mul(1 << failures.min(8)).min(LONGEST_RETRY)
                }
            };
            // The second caller of `set` is told that it is late, which is no news.
            let _ = self.asked.set(());
            tokio::time::sleep(pause).await;
        }
    }

    fn publish(&self, addresses: Vec<IpAddr>) {
        if **self.addresses.load() == addresses {
            return;
        }
        log::info!("`{}` is at {} addresses", self.name, addresses.len());
        self.addresses.store(Arc::new(addresses));
    }
}

const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// Also how soon a change is seen that was made before its predecessor's time was over.
const LONGEST_LIFE: Duration = Duration::from_secs(60);
/// A name that appears is served this soon.
const LONGEST_RETRY: Duration = Duration::from_secs(8);
const LOOKUPS_AT_ONCE: usize = 128;

#[cfg(test)]
mod tests;
