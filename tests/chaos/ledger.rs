//! The account: every request with what its client saw, and what the functions did about it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::harness::Response;

/// What became of a request, as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The function's answer: whole, and to this request.
    Answered,
    /// An answer of the gateway's own.
    Told(u16, String),
    /// An answer that visibly ended too early.
    Cut,
    /// The connection ended before a byte of an answer.
    Closed,
    /// There was no connection to be had.
    NotConnected,
    /// The client did not wait for what would come.
    Left,
    /// Nothing of the kind.
    Lost(String),
}

impl Seen {
    /// What an answer is to the client that sent the request with this id.
    pub(crate) fn of(answer: &Response, id: u64) -> Self {
        let (status, code) = (answer.status(), answer.code());
        let right = text(id);
        if !answer.whole {
            let is_part = right.as_bytes().starts_with(&answer.body);
            return if is_part { Seen::Cut } else { Seen::Lost(format!("cut, and not of {id}")) };
        }
        if !code.is_empty() {
            return Seen::Told(status, code);
        }
        match status == 200 && answer.body == right.as_bytes() {
            true => Seen::Answered,
            false => {
                Seen::Lost(format!("{} with {} bytes for {id}", answer.head.first_line, answer.body.len()))
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Answered => f.write_str("answered"),
            Seen::Told(status, code) => write!(f, "{status} {code}"),
            Seen::Cut => f.write_str("cut"),
            Seen::Closed => f.write_str("closed"),
            Seen::NotConnected => f.write_str("not connected"),
            Seen::Left => f.write_str("left"),
            Seen::Lost(what) => write!(f, "lost ({what})"),
        }
    }
}

/// What a function answers to the request with this id; long enough to be cut in two.
pub(crate) fn text(id: u64) -> String {
    format!("{id:09}\n").repeat(100)
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Clients of the route at which the fault strikes.
    Struck,
    /// Clients of another route, who should notice nothing.
    Other,
    /// Clients that are part of the fault.
    Guest,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) method: &'static str,
    pub(crate) lane: Lane,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) seen: Seen,
}

#[derive(Clone, Default)]
pub(crate) struct Ledger {
    next: Arc<AtomicU64>,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Ledger {
    /// Every request has a number that no other one has.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add(&self, entry: Entry) {
        self.entries.lock().unwrap().push(entry);
    }

    /// A request of a guest that ends now.
    pub(crate) fn guest(&self, id: u64, method: &'static str, seen: Seen) {
        let now = Instant::now();
        self.add(Entry { id, method, lane: Lane::Guest, began: now, ended: now, seen });
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, which: impl Fn(&&Entry) -> bool) -> usize {
        self.entries.lock().unwrap().iter().filter(which).count()
    }

    /// All there are, which are then forgotten.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.entries.lock().unwrap())
    }
}

/// Which requests reached a function, by what method, and how often.
#[derive(Clone, Default)]
pub(crate) struct Ran(Arc<Mutex<BTreeMap<u64, (String, usize)>>>);

impl Ran {
    pub(crate) fn note(&self, method: &str, id: u64) {
        let mut ran = self.0.lock().unwrap();
        ran.entry(id).or_insert_with(|| (method.to_owned(), 0)).1 += 1;
    }

    /// Adds what a server that is a process wrote down.
    pub(crate) fn note_record(&self, record: &Path) {
        let text = std::fs::read_to_string(record).unwrap();
        // A process that was killed may have left half a line.
        for (method, target) in text.lines().filter_map(|line| line.split_once(' ')) {
            if let Some(id) = id_of(target) {
                self.note(method, id);
            }
        }
    }

    pub(crate) fn times(&self, id: u64) -> usize {
        self.0.lock().unwrap().get(&id).map_or(0, |(_, times)| *times)
    }

    /// Requests that must not run twice and did.
    pub(crate) fn twice(&self) -> usize {
        self.0.lock().unwrap().values().filter(|(method, times)| method == "POST" && *times > 1).count()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// The number of a request is the last word of its path.
pub(crate) fn id_of(target: &str) -> Option<u64> {
    target.rsplit('/').next()?.parse().ok()
}
