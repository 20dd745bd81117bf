//! What an origin was sent: every connection, every request, in the order of arrival.

use std::sync::{Arc, Mutex};

use super::wire::Head;

#[derive(Default)]
pub(super) struct Journal(Mutex<State>);

impl Journal {
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.lock().unwrap())
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) connections: Vec<Connection>,
    pub(super) requests: Vec<Recorded>,
}

#[derive(Default)]
pub(super) struct Connection {
    pub(super) open: bool,
    pub(super) greeting: Greeting,
    pub(super) bytes: Arc<Mutex<Vec<u8>>>,
}

/// One request as the origin got it.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    /// Which of the origin's connections it came on, counted from 0.
    pub(crate) connection: usize,
}

impl Recorded {
    pub(crate) fn method(&self) -> &str {
        self.head.word(0)
    }

    /// The request target as sent.
    pub(crate) fn target(&self) -> &str {
        self.head.word(1)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.head.all(name)
    }

    pub(super) fn echo(&self) -> serde_json::Value {
        serde_json::json!({
            "method": self.method(),
            "target": self.target(),
            "headers": self.head.headers,
            "body": String::from_utf8_lossy(&self.body),
        })
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting {
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Option<String>,
}
