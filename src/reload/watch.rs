//! `Watch`: tells when a file that was read may say something else.
//!
//! What is watched are directories: a file that is renamed over, or reached by a link that is swapped, has no watch of its own that
//! would last. Of what happens there only the names on the way to a file count.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

pub(super) struct Watch {
    /// `None` when the system has no watch left for us.
    watcher: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    wanted: Arc<ArcSwap<Wanted>>,
    changes: mpsc::Receiver<()>,
    /// Also keeps the channel open when there is no watcher.
    changed: mpsc::Sender<()>,
}

/// What counts, each with the real path of its directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Files, the links that lead to them, and the first name that is missing on a way that leads nowhere yet.
    names: BTreeSet<PathBuf>,
    /// Directories in which every name counts.
    listings: BTreeSet<PathBuf>,
}

impl Watch {
    pub(super) fn new() -> Self {
        // One place: a change more does not make a load more.
        let (changed, changes) = mpsc::channel(1);
        let wanted = Arc::<ArcSwap<Wanted>>::default();
        let watcher = notify::recommended_watcher({
            let (changed, wanted) = (changed.clone(), Arc::clone(&wanted));
            move |event: notify::Result<Event>| {
                // An error says that something may have been missed.
                if event.is_ok_and(|event| !wanted.load().concerns(&event)) {
                    return;
                }
                let _ = changed.try_send(());
            }
        });
        let watcher =
            watcher.inspect_err(|e| log::warn!("files cannot be watched, reload by SIGHUP: {e}")).ok();
        Watch { watcher, directories: BTreeSet::new(), wanted, changes, changed }
    }

    /// Watches these files, and every name in those of them that are directories. Every watch is made anew, because a directory
    /// that was replaced has lost its own without a word: what changes after this call is noticed.
    pub(super) fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = Wanted::of(files);
        let directories = wanted.directories();
        self.wanted.store(Arc::new(wanted));
        for directory in &self.directories {
            // It fails for a directory that is gone.
            let _ = watcher.unwatch(directory);
        }
        for directory in &directories {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // Gone since we looked.
                Err(e) if matches!(e.kind, notify::ErrorKind::PathNotFound) => {
                    let _ = self.changed.try_send(());
                }
                Err(e) => log::warn!("{} cannot be watched: {e}", directory.display()),
            }
        }
        self.directories = directories;
    }

    /// Waits for a change, and then until nothing has changed for a moment: an editor, a ConfigMap, a deployment change several
    /// names in a row, and the last state counts.
    pub(super) async fn changed(&mut self) {
        self.changes.recv().await;
        let latest = Instant::now() + LONGEST_BURST;
        while Instant::now() < latest {
            let quiet = (Instant::now() + QUIET).min(latest);
            if timeout_at(quiet, self.changes.recv()).await.is_err() {
                return;
            }
        }
    }
}

impl Wanted {
    fn of(files: &[PathBuf]) -> Self {
        let mut wanted = Wanted::default();
        for file in files {
            if let Ok(path) = std::path::absolute(file) {
                wanted.trace(&path, LINKS);
            }
        }
        wanted
    }

    /// Follows a path name by name, as the kernel would.
    fn trace(&mut self, path: &Path, links: usize) {
        let mut real = PathBuf::from("/");
        let mut rest = path.components();
        while let Some(component) = rest.next() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => {
                    real.pop();
                    continue;
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            let here = real.join(name);
            let Ok(metadata) = here.symlink_metadata() else {
                self.names.insert(here);
                return;
            };
            if metadata.is_dir() {
                real = here;
                continue;
            }
            if metadata.is_symlink()
                && links > 0
                && let Ok(target) = here.read_link()
            {
                self.trace(&real.join(target).join(rest.as_path()), links - 1);
            }
            self.names.insert(here);
            return;
        }
        self.listings.insert(real);
    }

    fn directories(&self) -> BTreeSet<PathBuf> {
        let named = self.names.iter().filter_map(|name| name.parent());
        named.chain(self.listings.iter().map(PathBuf::as_path)).map(Path::to_owned).collect()
    }

    fn concerns(&self, event: &Event) -> bool {
        let is_named = |path: &PathBuf| self.names.contains(path);
        let is_listed = |path: &PathBuf| path.parent().is_some_and(|parent| self.listings.contains(parent));
        // A watched directory itself was moved or removed.
        let is_watched = |path: &PathBuf| {
            self.listings.contains(path) || self.names.iter().any(|name| name.parent() == Some(path))
        };
        match event.kind {
            // Reading our own files is an event as well, and no change.
            EventKind::Access(_) => false,
            // Every file that was read is named; others may be written to all the time, a log for one.
            EventKind::Modify(ModifyKind::Data(_)) => event.paths.iter().any(is_named),
            _ if event.need_rescan() => true,
            _ => event.paths.iter().any(|path| is_named(path) || is_listed(path) || is_watched(path)),
        }
    }
}

const QUIET: Duration = Duration::from_millis(50);
const LONGEST_BURST: Duration = Duration::from_millis(300);
/// As the kernel has it.
const LINKS: usize = 40;

#[cfg(test)]
mod tests;
