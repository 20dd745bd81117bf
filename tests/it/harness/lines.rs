//! What a child process writes, line by line and in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::{PATIENCE, eventually};

/// Lines of an output of the child, the last `LINES_KEPT` of them.
pub(super) struct Lines {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    ended: bool,
}

impl Lines {
    pub(super) fn of(output: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let into = Arc::clone(&kept);
        tokio::spawn(async move {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line).await, Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                line.clear();
                let mut kept = into.lock().unwrap();
                if kept.lines.len() == LINES_KEPT {
                    kept.lines.pop_front();
                }
                kept.lines.push_back(text);
            }
            into.lock().unwrap().ended = true;
        });
        Self { kept }
    }

    pub(super) async fn wait(&self, what: &str, enough: impl Fn(&VecDeque<String>) -> bool) -> Vec<String> {
        eventually(what, PATIENCE, async || {
            let kept = self.kept.lock().unwrap();
            enough(&kept.lines).then(|| kept.lines.iter().cloned().collect())
        })
        .await
    }

    pub(super) async fn ended(&self) {
        eventually("the end of an output", PATIENCE, async || self.kept.lock().unwrap().ended.then_some(()))
            .await;
    }

    pub(super) fn text(&self) -> String {
        self.end(LINES_KEPT)
    }

    /// The last lines, at most this many.
    pub(super) fn end(&self, most: usize) -> String {
        let kept = self.kept.lock().unwrap();
        let skipped = kept.lines.len().saturating_sub(most);
        kept.lines.iter().skip(skipped).fold(String::new(), |text, line| text + line + "\n")
    }
}

const LINES_KEPT: usize = 20_000;
