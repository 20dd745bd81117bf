//! Names, resolved in the background and published as snapshots; no request ever waits for a resolver.
//!
//! A name's time to live is honoured within bounds. When the resolver fails, the last answer stays in use.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use tokio::sync::Notify;

/// One name and what is known of it. Shared by all routes that use the name; its task ends when the last of them is gone.
#[derive(Debug)]
pub struct Host {
    name: String,
    addresses: ArcSwap<Vec<IpAddr>>,
    asked: AtomicFlag,
}

/// Resolves names for as long as somebody holds their [`Host`].
#[derive(Clone)]
pub struct Resolver {
    resolver: Arc<TokioResolver>,
    hosts: Arc<Mutex<HashMap<String, Weak<Host>>>>,
    runtime: tokio::runtime::Handle,
}

impl Resolver {
    /// Reads the system's resolver configuration; without one, only the hosts file answers.
    pub fn from_system(runtime: tokio::runtime::Handle) -> anyhow::Result<Self> {
        let builder = TokioResolver::builder_tokio().or_else(|e| {
            log::warn!("the system's resolver configuration cannot be read ({e}); names resolve by the hosts file only");
            Ok::<_, anyhow::Error>(TokioResolver::builder_with_config(
                hickory_resolver::config::ResolverConfig::default(),
                Default::default(),
            ))
        })?;
        Ok(Self::new(builder.build()?, runtime))
    }

    pub fn new(resolver: TokioResolver, runtime: tokio::runtime::Handle) -> Self {
        Resolver { resolver: Arc::new(resolver), hosts: Arc::default(), runtime }
    }

    /// The host of this name; resolving begins with the first caller.
    pub fn host(&self, name: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name).and_then(Weak::upgrade) {
            return host;
        }
        let host = Arc::new(Host {
            name: name.to_owned(),
            addresses: ArcSwap::default(),
            asked: AtomicFlag::default(),
        });
        hosts.retain(|_, host| host.strong_count() > 0);
        hosts.insert(name.to_owned(), Arc::downgrade(&host));
        self.runtime.spawn(keep_resolved(Arc::clone(&self.resolver), Arc::downgrade(&host)));
        host
    }
}

impl Host {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last good answer; empty as long as there was none.
    pub fn addresses(&self) -> arc_swap::Guard<Arc<Vec<IpAddr>>> {
        self.addresses.load()
    }

    /// Waits until the resolver has spoken for the first time, whatever it said.
    pub async fn asked(&self) {
        self.asked.wait().await;
    }
}

/// Looks the name up again and again until nobody wants it any more.
async fn keep_resolved(resolver: Arc<TokioResolver>, host: Weak<Host>) {
    let mut failures = 0;
    loop {
        let Some(name) = host.upgrade().map(|host| host.name.clone()) else { return };
        let answer = resolver.lookup_ip(name.as_str()).await;
        let Some(host) = host.upgrade() else { return };
        let pause = match answer {
            Ok(answer) => {
                failures = 0;
                let mut addresses: Vec<IpAddr> = answer.iter().collect();
                addresses.sort();
                addresses.dedup();
                host.publish(addresses);
                answer
                    .valid_until()
                    .saturating_duration_since(Instant::now())
                    .clamp(SHORTEST_LIFE, LONGEST_LIFE)
            }
            Err(e) => {
                failures += 1;
                if failures == 1 {
                    let kept = host.addresses.load().len();
                    log::warn!("`{name}` does not resolve ({e}); {kept} known addresses stay in use");
                }
                SHORTEST_LIFE.saturating_mul(1 << failures.min(5)).min(LONGEST_LIFE)
            }
        };
        host.asked.set();
        drop(host);
        tokio::time::sleep(pause).await;
    }
}

impl Host {
    fn publish(&self, addresses: Vec<IpAddr>) {
        if addresses.is_empty() || **self.addresses.load() == addresses {
            return;
        }
        log::info!("`{}` is at {} addresses", self.name, addresses.len());
        self.addresses.store(Arc::new(addresses));
    }
}

/// A flag that is set once and can be waited for.
#[derive(Debug, Default)]
struct AtomicFlag {
    is_set: std::sync::atomic::AtomicBool,
    notify: Notify,
}

impl AtomicFlag {
    fn set(&self) {
        self.is_set.store(true, std::sync::atomic::Ordering::Release);
        self.notify.notify_waiters();
    }

    async fn wait(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_set.load(std::sync::atomic::Ordering::Acquire) {
            notified.await;
        }
    }
}

const SHORTEST_LIFE: Duration = Duration::from_secs(1);
const LONGEST_LIFE: Duration = Duration::from_secs(60);
