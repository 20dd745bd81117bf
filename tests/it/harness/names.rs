//! The resolver that the machine would have: a name server that knows one name, and forgets it when told to.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::{PATIENCE, eventually};

/// A name server that knows `fn.test`, for a second at a time.
pub(crate) struct NameServer {
    ip: Ipv4Addr,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    zone: Zone,
    asked: usize,
}

#[derive(Clone)]
pub(crate) enum Zone {
    Absent,
    At(Vec<Ipv4Addr>),
    Fails,
}

impl NameServer {
    /// resolv.conf(5) knows no ports, but loopback has addresses enough.
    pub(crate) async fn start() -> Option<Self> {
        for last in 53..63 {
            if let Some(server) = Self::start_at(Ipv4Addr::new(127, 53, 53, last)).await {
                return Some(server);
            }
        }
        None
    }

    /// On port 53 of this address, if nobody has it.
    pub(crate) async fn start_at(ip: Ipv4Addr) -> Option<Self> {
        let socket = UdpSocket::bind((ip, 53)).await.ok()?;
        let state = Arc::new(Mutex::new(State { zone: Zone::Absent, asked: 0 }));
        let task = tokio::spawn(answer_questions(socket, Arc::clone(&state)));
        Some(NameServer { ip, state, task })
    }

    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    pub(crate) fn set(&self, zone: Zone) {
        self.state.lock().unwrap().zone = zone;
    }

    pub(crate) async fn is_asked_again(&self) {
        let before = self.state.lock().unwrap().asked;
        eventually("another question", PATIENCE, async || {
            (self.state.lock().unwrap().asked > before + 2).then_some(())
        })
        .await;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_questions(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 4096];
    loop {
        let (size, client) = socket.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..size]).unwrap();
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        let zone = {
            let mut state = state.lock().unwrap();
            state.asked += 1;
            state.zone.clone()
        };
        match zone {
            Zone::At(ips) if query.name().to_string() == "fn.test." => {
                let ips = ips.iter().filter(|_| query.query_type() == RecordType::A);
                answer
                    .add_answers(ips.map(|ip| Record::from_rdata(query.name().clone(), 1, RData::A(A(*ip)))));
            }
            Zone::At(_) | Zone::Absent => answer.metadata.response_code = ResponseCode::NXDomain,
            Zone::Fails => answer.metadata.response_code = ResponseCode::ServFail,
        }
        socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    }
}
