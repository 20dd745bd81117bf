//! Reload: load, compile, swap; on any fault the running snapshot stays.

mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use self::watch::Watch;
use crate::admin::Status;
use crate::app::{counted_routes, notify as tell_manager};
use crate::config;
use crate::snapshot::{Plan, Settings, Snapshot};
use crate::telemetry::{AccessLog, Metrics};
use crate::tls::ServerIdentities;
use crate::upstream::Upstream;
use crate::upstream::resolve::Resolver;

/// Everything a new configuration has to reach.
pub struct Reloader {
    pub path: PathBuf,
    pub resolver: Resolver,
    pub metrics: Metrics,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub access_log: AccessLog,
    /// By listener, in the order of the file.
    pub identities: Vec<Option<Arc<ServerIdentities>>>,
    pub status: Arc<Status>,
    /// How many idle connections to functions there is room for; it cannot grow.
    pub pool_size: usize,
    /// Takes what was replaced, to close its connections.
    pub retired: mpsc::Sender<Vec<Arc<Upstream>>>,
    /// Takes what the snapshot says about connections to where they are accepted.
    pub apply: Box<dyn Fn(&Snapshot) + Send + Sync>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Somebody asked, and waits for an outcome.
    Signal,
    /// A file changed, or something beside it.
    Files,
}

/// What the last reload was refused for.
type Refusal = Option<Vec<String>>;

/// Reloads on SIGHUP and when a file that was read changes, for as long as the process lives. `files` are those that were read
/// for the running configuration.
pub async fn watch(reloader: Reloader, files: Vec<PathBuf>, hangup: Signal) {
    tokio::join!(follow_names(reloader.resolver.clone()), follow_files(reloader, files, hangup));
}

async fn follow_files(reloader: Reloader, mut files: Vec<PathBuf>, mut hangup: Signal) {
    let mut watch = Watch::new();
    let mut refusal = None;
    // Something may have changed between the first reading and the first watch.
    let mut cause = Cause::Files;
    loop {
        // Watched first and read then, so that nothing is missed in between.
        watch.follow(&files);
        let read = reloader.reload(cause, &mut refusal).await;
        if read != files {
            files = read;
            cause = Cause::Files;
            continue;
        }
        // Signals that arrive during a reload are one more reload after it.
        cause = tokio::select! {
            _ = hangup.recv() => Cause::Signal,
            () = watch.changed() => Cause::Files,
        };
    }
}

/// Keeps up with the system's own files about names. They are looked at and not watched: in containers they are mounts, whose
/// changes are no events.
async fn follow_names(resolver: Resolver) {
    loop {
        tokio::time::sleep(NAMES_LOOKED_AT).await;
        let resolver = resolver.clone();
        let looked = tokio::task::spawn_blocking(move || {
            if resolver.is_outdated() {
                log::info!("the system's files about names have changed, all names are looked up again");
                resolver.refresh();
            }
        });
        if let Err(e) = looked.await {
            log::error!("the system's files about names cannot be followed: {e}");
        }
    }
}

impl Reloader {
    /// Returns the files to watch from now on.
    async fn reload(&self, cause: Cause, refusal: &mut Refusal) -> Vec<PathBuf> {
        let running = self.snapshot.load_full();
        if cause == Cause::Signal
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            tell_manager(&[NotifyState::Reloading, now]);
        }
        let (path, resolver) = (self.path.clone(), self.resolver.clone());
        let loaded = tokio::task::spawn_blocking(move || {
            // Whoever asks for a reload may have changed where names lead.
            if cause == Cause::Signal {
                resolver.refresh();
            }
            config::load(&path)
        });
        let Ok(config::Loaded { plan, report, files }) = loaded.await else {
            self.refuse(None, vec!["the configuration's loader panicked; this is a bug".to_owned()]);
            return vec![self.path.clone()];
        };
        let outcome = match plan {
            // A file was touched, and nobody waits to hear that this changes nothing.
            Some(plan) if plan.hash == running.hash && cause == Cause::Files && refusal.is_none() => {
                return files;
            }
            Some(plan) => {
                let hash = plan.hash.clone();
                let is_news = hash != running.hash;
                let taken = self.take(plan, running).await;
                if taken.is_ok() && is_news {
                    // Without faults, they are warnings.
                    report.findings().iter().for_each(|warning| log::warn!("{warning}"));
                }
                taken.map_err(|reason| (Some(hash), vec![reason]))
            }
            None => Err((None, report.findings().iter().map(ToString::to_string).collect())),
        };
        let refused = outcome.err();
        let faults = refused.as_ref().map(|(_, faults)| faults.clone());
        // The same fault once more is news only to somebody who asked.
        if let Some((hash, faults)) = refused
            && (cause == Cause::Signal || refusal.as_ref() != Some(&faults))
        {
            self.refuse(hash.as_deref(), faults);
        }
        *refusal = faults;
        files
    }

    /// All of the plan or, with a reason, nothing of it.
    async fn take(&self, plan: Plan, running: Arc<Snapshot>) -> Result<(), String> {
        let keys = need_restart(&running.settings, &plan.settings);
        if !keys.is_empty() {
            let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "{keys} changed, which takes a restart or an upgrade; the running configuration stays"
            ));
        }
        let kept = crate::app::kept_connections(&plan);
        // The last step that can fail.
        self.access_log
            .retarget(&crate::app::sink(&plan.settings.access_log))
            .map_err(|e| format!("the access log {e}"))?;
        let (metrics, resolver) = (self.metrics.clone(), self.resolver.clone());
        let building =
            tokio::task::spawn_blocking(move || Snapshot::build(plan, Some(&running), &metrics, &resolver));
        let snapshot = building
            .await
            .map_err(|_| "the configuration could not be brought to life; this is a bug".to_owned())?;
        snapshot.settle(NAMES_AT_RELOAD).await;
        if kept > self.pool_size {
            log::warn!(
                "the routes want {kept} connections kept, there is room for {} until a restart",
                self.pool_size
            );
        }
        // Nobody else would close what is replaced, so it waits until there is room for it where that is done.
        let retired = self.retired.reserve().await.ok();
        self.swap(snapshot, retired);
        Ok(())
    }

    fn swap(&self, snapshot: Snapshot, retired: Option<mpsc::Permit<'_, Vec<Arc<Upstream>>>>) {
        for (identities, listener) in self.identities.iter().zip(&snapshot.settings.listeners) {
            if let Some(identities) = identities {
                identities.swap(&listener.identities);
            }
        }
        (self.apply)(&snapshot);
        self.report_certificates(&snapshot);
        let snapshot = Arc::new(snapshot);
        let replaced = self.snapshot.swap(Arc::clone(&snapshot));
        if let Some(retired) = retired {
            retired.send(replaced.retired_by(&snapshot));
        }

        self.metrics.reload_succeeded(&snapshot.hash);
        self.status.reload_succeeded(&snapshot.hash, snapshot.generation);
        let outcome = format!("serving {}, reloaded", counted_routes(snapshot.routes.values().count()));
        log::info!("{outcome} (configuration {})", snapshot.hash);
        tell_manager(&[NotifyState::Ready, NotifyState::Status(&outcome)]);
    }

    /// `hash` is that of the refused configuration, when it could be read.
    fn refuse(&self, hash: Option<&str>, faults: Vec<String>) {
        log::error!("the reload was refused, the running configuration stays");
        for fault in &faults {
            log::error!("{fault}");
        }
        self.metrics.reload_failed();
        let first = faults.first().and_then(|fault| fault.lines().next()).unwrap_or_default();
        let status = format!("reload refused: {first}");
        self.status.reload_failed(hash, faults);
        tell_manager(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    pub fn report_certificates(&self, snapshot: &Snapshot) {
        let identities = snapshot.settings.listeners.iter().flat_map(|listener| &listener.identities);
        self.metrics
            .set_certificates(identities.map(|identity| (identity.name.as_str(), identity.not_after)));
    }
}

/// The keys whose change cannot be applied to a running process.
fn need_restart(running: &Settings, new: &Settings) -> Vec<&'static str> {
    let shape = |settings: &Settings| -> Vec<_> {
        settings.listeners.iter().map(|listener| (listener.address, listener.identities.is_empty())).collect()
    };
    let changed = [
        ("listeners", shape(running) != shape(new)),
        ("threads", running.threads != new.threads),
        ("admin", running.admin != new.admin),
        // The HTTP/2 library is told these once.
        ("limits.http2_streams", running.limits.http2_streams != new.limits.http2_streams),
        ("limits.header_size", running.limits.head.whole != new.limits.head.whole),
    ];
    changed.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key).collect()
}

/// How often the system's files about names are looked at.
const NAMES_LOOKED_AT: Duration = Duration::from_secs(5);
const NAMES_AT_RELOAD: Duration = Duration::from_millis(500);
