//! `LineWriter`: a bounded queue of lines and the thread that writes them out.
//!
//! Whoever adds a line never waits for the sink: a line that finds no room is given up. A sink that fails is tried again for ever,
//! and never ends the process.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    Off,
    Stdout,
    Stderr,
    /// Appended to; created with mode 0640.
    File(PathBuf),
}

impl Sink {
    pub(super) fn open(&self) -> io::Result<Output> {
        let output = match self {
            Sink::Off => Output::Off,
            Sink::Stdout => Output::to(File::from(io::stdout().as_fd().try_clone_to_owned()?), None),
            Sink::Stderr => Output::to(File::from(io::stderr().as_fd().try_clone_to_owned()?), None),
            Sink::File(path) => {
                let file = append_to(path).map_err(|error| unopened(path, &error))?;
                Output::to(file, Some(path.clone()))
            }
        };
        Ok(output)
    }

    /// Whether it could be opened, without a file that comes into being.
    pub fn try_out(&self) -> io::Result<()> {
        let Sink::File(path) = self else { return Ok(()) };
        let may = |path: &Path, flags| access(path, flags).map_err(io::Error::from);
        let checked = match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Err(ErrorKind::IsADirectory.into()),
            Ok(_) => may(path, AccessFlags::W_OK),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let directory = path.parent().filter(|parent| *parent != Path::new(""));
                may(directory.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK)
            }
            Err(error) => Err(error),
        };
        checked.map_err(|error| unopened(path, &error))
    }
}

/// A sink that is open.
pub(super) enum Output {
    Off,
    Open {
        file: File,
        /// Under which it can be opened again.
        path: Option<PathBuf>,
        /// How much can be written at once without another writer's bytes in between.
        piece: usize,
    },
}

impl Output {
    pub(super) fn to(file: File, path: Option<PathBuf>) -> Self {
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Output::Open { file, path, piece: if is_file { usize::MAX } else { PIPE_BUF } }
    }
}

/// What the thread has to tell its operator, once per trouble.
pub(super) type Report = fn(&str);

/// Dropping it lets the thread write what is queued and end.
pub(super) struct LineWriter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something for the thread to do.
    work: Condvar,
    /// Everything is written.
    drained: Condvar,
    report: Report,
}

struct State {
    queue: Vec<u8>,
    /// The thread asks to be woken when the queue is this long; `usize::MAX` while it is awake.
    wake_at: usize,
    order: Option<Order>,
    /// Somebody waits in `flush`: no gathering.
    hurry: bool,
    /// Lines taken out of the queue are not written yet.
    writing: bool,
    stop: bool,
}

enum Order {
    Reopen,
    Use(Output),
}

impl LineWriter {
    pub(super) fn start(name: &str, output: Output, report: Report) -> io::Result<Self> {
        let state = State {
            queue: Vec::with_capacity(BATCH),
            wake_at: usize::MAX,
            order: None,
            hurry: false,
            writing: false,
            stop: false,
        };
        let shared =
            Shared { state: Mutex::new(state), work: Condvar::new(), drained: Condvar::new(), report };
        let shared = Arc::new(shared);
        let thread = Thread { shared: shared.clone(), output, batch: Vec::new(), written: 0 };
        thread::Builder::new().name(name.to_owned()).spawn(move || thread.run())?;
        Ok(LineWriter(shared))
    }

    /// Queues a line that ends in a line break; `false` when there is no room for it.
    #[must_use]
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut state = self.0.lock();
        if state.queue.len() + line.len() > MAX_QUEUED {
            return false;
        }
        state.queue.extend_from_slice(line);
        if state.queue.len() >= state.wake_at {
            state.wake_at = usize::MAX;
            self.0.work.notify_one();
        }
        true
    }

    /// Opens the file anew under its name, after it was moved away.
    pub(super) fn reopen(&self) {
        // An output that still waits to be used is as new as can be.
        self.0.lock().order.get_or_insert(Order::Reopen);
        self.0.work.notify_one();
    }

    pub(super) fn retarget(&self, output: Output) {
        self.0.lock().order = Some(Order::Use(output));
        self.0.work.notify_one();
    }

    /// Waits until nothing is queued any more, at most for `limit`; tells whether it is so.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let mut state = self.0.lock();
        state.hurry = true;
        self.0.work.notify_one();
        let busy = |state: &mut State| state.writing || !state.queue.is_empty() || state.order.is_some();
        let waited = self.0.drained.wait_timeout_while(state, limit, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.work.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing side.
struct Thread {
    shared: Arc<Shared>,
    output: Output,
    /// Lines under way; those before `written` are out.
    batch: Vec<u8>,
    written: usize,
}

impl Thread {
    fn run(mut self) {
        while let Some(order) = self.take_batch() {
            if let Some(order) = order {
                self.obey(order);
            }
            if self.write_batch().is_err() {
                return;
            }
        }
    }

    /// Waits for lines or an order. `None` is the end.
    fn take_batch(&mut self) -> Option<Option<Order>> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        state.writing = false;
        if state.queue.is_empty() && state.order.is_none() {
            state.hurry = false;
            shared.drained.notify_all();
            state.wake_at = 1;
            let idle = |state: &mut State| state.queue.is_empty() && state.order.is_none() && !state.stop;
            state = shared.work.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        }
        // Many lines with one system call: a short while to gather, unless somebody waits.
        state.wake_at = BATCH;
        let gathering = |state: &mut State| {
            state.queue.len() < BATCH && state.order.is_none() && !state.hurry && !state.stop
        };
        let gathered = shared.work.wait_timeout_while(state, GATHER, gathering);
        state = gathered.unwrap_or_else(PoisonError::into_inner).0;
        state.wake_at = usize::MAX;

        let order = state.order.take();
        if state.stop && state.queue.is_empty() && order.is_none() {
            return None;
        }
        self.batch.clear();
        self.written = 0;
        std::mem::swap(&mut self.batch, &mut state.queue);
        state.writing = true;
        Some(order)
    }

    /// Writes the batch, however long that takes. An error is: the sink fails and the writer is no longer wanted.
    fn write_batch(&mut self) -> Result<(), ()> {
        let mut failing = false;
        while self.written < self.batch.len() {
            let result = match &mut self.output {
                Output::Off => return Ok(()),
                Output::Open { file, piece, .. } => {
                    file.write(whole_lines(&self.batch[self.written..], *piece))
                }
            };
            let error = match result {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(count) => {
                    self.written += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            // A pipe that is full, and that somebody set to non-blocking, is slow but no trouble.
            let full_pipe = error.kind() == ErrorKind::WouldBlock;
            if !full_pipe && !failing {
                failing = true;
                (self.shared.report)(&format!(
                    "cannot be written, lines are kept while there is room: {error}"
                ));
            }
            self.pause(if full_pipe { GATHER } else { RETRY })?;
        }
        if failing {
            (self.shared.report)("can be written again");
        }
        Ok(())
    }

    /// Waits before the next attempt; an order ends the wait.
    fn pause(&mut self, time: Duration) -> Result<(), ()> {
        let shared = self.shared.clone();
        let calm = |state: &mut State| state.order.is_none() && !state.stop;
        let waited = shared.work.wait_timeout_while(shared.lock(), time, calm);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.stop {
            return Err(());
        }
        let order = state.order.take();
        drop(state);
        if let Some(order) = order {
            // What has begun in one file does not end in another.
            let out = &self.batch[..self.written];
            self.written = out.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            self.obey(order);
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) {
        match (order, &mut self.output) {
            (Order::Use(output), _) => self.output = output,
            (Order::Reopen, Output::Open { path: Some(path), .. }) => match append_to(path) {
                Ok(reopened) => self.output = Output::to(reopened, Some(path.clone())),
                Err(error) => {
                    (self.shared.report)(&format!("cannot be opened anew, the old one stays: {error}"));
                }
            },
            (Order::Reopen, _) => {}
        }
    }
}

/// The lines at the beginning that go into one piece; one that is longer stands alone.
fn whole_lines(lines: &[u8], piece: usize) -> &[u8] {
    let Some(within) = lines.get(..piece) else { return lines };
    let end = within
        .iter()
        .rposition(|byte| *byte == b'\n')
        .or_else(|| lines.iter().position(|byte| *byte == b'\n'));
    end.map_or(lines, |end| &lines[..=end])
}

fn unopened(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}` cannot be opened: {error}", path.display()))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// What a sink that hangs may cost in memory; as much again may be under way.
const MAX_QUEUED: usize = 4 << 20;
/// What a pipe takes as a whole (pipe(7)); sockets and terminals take no less.
const PIPE_BUF: usize = 4096;
/// Enough for one system call.
const BATCH: usize = 64 << 10;
/// How long a line may wait for others.
const GATHER: Duration = Duration::from_millis(10);
/// Between two attempts at a sink that fails.
pub(super) const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_between_them() {
        for (lines, piece, first) in [
            ("a\nbb\nccc\n", 100, "a\nbb\nccc\n"),
            ("a\nbb\nccc\n", 9, "a\nbb\nccc\n"),
            ("a\nbb\nccc\n", 8, "a\nbb\n"),
            ("a\nbb\nccc\n", 2, "a\n"),
            ("long\nbb\n", 3, "long\n"),
            ("rest", 3, "rest"),
        ] {
            assert_eq!(whole_lines(lines.as_bytes(), piece), first.as_bytes(), "{lines:?} {piece}");
        }
    }
}
