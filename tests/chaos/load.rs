//! Clients that ask one thing after the other, each over one connection for as long as it lasts, GET and POST in turn, and
//! hold every answer against what it must be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Client, Request};
use crate::ledger::{Entry, Lane, Ledger, Seen};

/// What all clients of a load have in common.
#[derive(Clone)]
pub(crate) struct Habit {
    pub(crate) addr: SocketAddr,
    /// What comes before a request's number in its path.
    pub(crate) path: String,
    pub(crate) lane: Lane,
    /// Between an answer and the next request.
    pub(crate) pause: Duration,
}

pub(crate) struct Load {
    clients: JoinSet<()>,
    over: Arc<AtomicBool>,
}

impl Load {
    pub(crate) fn start(ledger: &Ledger, habit: &Habit, clients: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|number| {
            let (ledger, habit, over) = (ledger.clone(), habit.clone(), Arc::clone(&over));
            async move {
                let mut connection = None;
                let mut turn = number;
                while !over.load(Ordering::Relaxed) {
                    ask(
                        &ledger,
                        &habit,
                        &mut connection,
                        if turn.is_multiple_of(2) { "GET" } else { "POST" },
                    )
                    .await;
                    turn += 1;
                    sleep(habit.pause).await;
                }
            }
        });
        Load { clients: clients.collect(), over }
    }

    /// Lets every client finish what it has begun. Says so when one of them broke on an answer.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(|error| format!("a client could not make sense of an answer: {error}"))?;
        }
        Ok(())
    }
}

/// One request and its line in the account.
pub(crate) async fn ask(
    ledger: &Ledger,
    habit: &Habit,
    connection: &mut Option<Client>,
    method: &'static str,
) {
    let id = ledger.next();
    let target = format!("{}/{id}", habit.path);
    let request = match method {
        "POST" => Request::post(&target, id.to_string()),
        _ => Request::get(&target),
    };
    let began = Instant::now();
    let asked = timeout(LONGEST_WAIT, answer(habit.addr, connection, &request, id)).await;
    let seen = asked.unwrap_or_else(|_| Seen::Lost(format!("no end within {LONGEST_WAIT:?}")));
    ledger.add(Entry { id, method, lane: habit.lane, began, ended: Instant::now(), seen });
}

async fn answer(addr: SocketAddr, kept: &mut Option<Client>, request: &Request, id: u64) -> Seen {
    // Given up unless it comes back whole.
    let connection = match kept.take() {
        Some(connection) => Some(connection),
        None => Client::try_connect(addr).await,
    };
    let Some(mut connection) = connection else { return Seen::NotConnected };
    let Some(answer) = connection.try_call(request).await else { return Seen::Closed };
    let is_last = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    if answer.whole && !is_last {
        *kept = Some(connection);
    }
    Seen::of(&answer, id)
}

/// Longer than any time limit of the gateways here, shorter than the harness's patience.
const LONGEST_WAIT: Duration = Duration::from_secs(12);
