//! Reload: load, compile, swap; on any fault the running snapshot stays.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{RecursiveMode, Watcher};
use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

use crate::admin::Status;
use crate::app::notify as tell_manager;
use crate::config;
use crate::snapshot::{Plan, Settings, Snapshot};
use crate::telemetry::{AccessLog, Metrics};
use crate::tls::ServerIdentities;
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

/// Reloads on SIGHUP and when a file that was read changes, for as long as the process lives.
pub async fn run(reloader: Reloader, mut watch: Watch, mut hangup: Signal) {
    loop {
        let cause = tokio::select! {
            _ = hangup.recv() => Cause::Signal,
            () = watch.changed() => Cause::Files,
        };
        let files = reloader.reload(cause).await;
        watch.follow(&files);
    }
}

impl Reloader {
    /// Returns the files to watch from now on.
    async fn reload(&self, cause: Cause) -> Vec<PathBuf> {
        let running = self.snapshot.load_full();
        if cause == Cause::Signal
            && let Ok(now) = NotifyState::monotonic_usec_now()
        {
            tell_manager(&[NotifyState::Reloading, now]);
        }
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let Ok(config::Loaded { plan, report, files }) = loaded else {
            self.refused(None, vec!["the configuration's loader panicked; this is a bug".to_owned()]);
            return vec![self.path.clone()];
        };
        match plan {
            // Something beside our files changed, or a file was touched.
            Some(plan) if plan.hash == running.hash && cause == Cause::Files => {}
            Some(plan) => match needs_restart(&running.settings, &plan.settings) {
                Some(key) => {
                    let reason =
                        format!("`{key}` changed, which takes a restart; the running configuration stays");
                    self.refused(Some(&plan.hash), vec![reason]);
                }
                None => self.swap(plan, &running).await,
            },
            None => self.refused(None, report.findings().iter().map(ToString::to_string).collect()),
        }
        files
    }

    async fn swap(&self, plan: Plan, running: &Snapshot) {
        let snapshot = Snapshot::build(plan, Some(running), &self.metrics, &self.resolver);
        snapshot.settle(NAMES_AT_RELOAD).await;
        for (identities, listener) in self.identities.iter().zip(&snapshot.settings.listeners) {
            if let Some(identities) = identities {
                identities.swap(&listener.identities);
            }
        }
        if let Err(e) = self.access_log.retarget(&crate::app::sink(&snapshot.settings.access_log)) {
            log::error!("the access log goes on where it was, the new one cannot be opened: {e}");
        }
        (self.apply)(&snapshot);
        self.report_certificates(&snapshot);
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Arc::clone(&snapshot));

        self.metrics.reload_succeeded(&snapshot.hash);
        self.status.reload_succeeded(&snapshot.hash, snapshot.generation);
        let outcome = format!("serving {} routes, reloaded", snapshot.routes.values().count());
        log::info!("{outcome} (configuration {})", snapshot.hash);
        tell_manager(&[NotifyState::Ready, NotifyState::Status(&outcome)]);
    }

    /// `hash` is that of the refused configuration, when it could be read.
    fn refused(&self, hash: Option<&str>, faults: Vec<String>) {
        log::error!("the reload was refused, the running configuration stays");
        for fault in &faults {
            log::error!("{fault}");
        }
        let first = faults.first().map_or("", String::as_str);
        tell_manager(&[NotifyState::Ready, NotifyState::Status(&format!("reload refused: {first}"))]);
        self.metrics.reload_failed();
        self.status.reload_failed(hash, faults);
    }

    pub fn report_certificates(&self, snapshot: &Snapshot) {
        let identities = snapshot.settings.listeners.iter().flat_map(|listener| &listener.identities);
        self.metrics
            .set_certificates(identities.map(|identity| (identity.name.as_str(), identity.not_after)));
    }
}

/// The first key whose change cannot be applied to a running process.
fn needs_restart(running: &Settings, new: &Settings) -> Option<&'static str> {
    let shape = |settings: &Settings| -> Vec<_> {
        settings.listeners.iter().map(|listener| (listener.address, listener.identities.is_empty())).collect()
    };
    if shape(running) != shape(new) {
        return Some("listeners");
    }
    if running.threads != new.threads {
        return Some("threads");
    }
    (running.admin != new.admin).then_some("admin")
}

/// Watches the directories of files, because a file that is renamed over or reached by a swapped link has no watch of its own.
pub struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// A change between the load of the files and this moment is noticed too: the first look is due at once.
    pub fn begin(files: &[PathBuf]) -> Self {
        let (changed, changes) = mpsc::channel(1);
        let _ = changed.try_send(());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading our own files is an event as well, and no change.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // A full channel means that a reload is due already.
                let _ = changed.try_send(());
            }
        });
        let watcher =
            watcher.inspect_err(|e| log::warn!("files cannot be watched, reload by SIGHUP: {e}")).ok();
        let mut watch = Watch { watcher, directories: BTreeSet::new(), changes };
        watch.follow(files);
        watch
    }

    async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // Nothing can be watched: only signals are left.
            return std::future::pending().await;
        }
        // An editor or a ConfigMap changes several names in a row; the last state counts.
        tokio::time::sleep(SETTLE).await;
        while self.changes.try_recv().is_ok() {}
    }

    fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = files.iter().flat_map(|file| directories(file)).collect();
        for gone in self.directories.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        let mut followed = BTreeSet::new();
        for directory in wanted {
            let known = self.directories.contains(&directory);
            match known
                .then_some(Ok(()))
                .unwrap_or_else(|| watcher.watch(&directory, RecursiveMode::NonRecursive))
            {
                Ok(()) => drop(followed.insert(directory)),
                Err(e) => log::warn!("{} cannot be watched: {e}", directory.display()),
            }
        }
        self.directories = followed;
    }
}

/// Where a change of this file shows: the directory of its name, and that of the file a link leads to.
fn directories(file: &Path) -> impl Iterator<Item = PathBuf> {
    let named = if file.is_dir() { Some(file) } else { file.parent() };
    let named = named.map(|directory| {
        if directory.as_os_str().is_empty() { Path::new(".") } else { directory }.to_owned()
    });
    let real = file.canonicalize().ok().and_then(|file| file.parent().map(Path::to_owned));
    named.into_iter().chain(real)
}

const SETTLE: Duration = Duration::from_millis(100);
const NAMES_AT_RELOAD: Duration = Duration::from_millis(500);
