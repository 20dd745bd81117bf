//! A function server that is a process of its own, to be killed, stopped and put behind another network: this program again,
//! with an origin of the harness in it. What it was asked is in a file that outlives it.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{Origin, Reply, free_port, within};
use crate::ledger::{Ran, id_of, text};

pub(crate) struct Server {
    child: Child,
    addr: SocketAddr,
    listens: SocketAddr,
    /// A command that becomes the server.
    prefix: &'static [&'static str],
    dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let addr = (Ipv4Addr::LOCALHOST, free_port()).into();
        Self::start_with(addr, addr, &[]).await
    }

    /// In a network of its own, where it will be found at this address.
    pub(crate) async fn start_elsewhere(ip: Ipv4Addr) -> Self {
        let port = free_port();
        let anywhere = (Ipv4Addr::UNSPECIFIED, port).into();
        Self::start_with((ip, port).into(), anywhere, &["unshare", "--net", "--"]).await
    }

    async fn start_with(addr: SocketAddr, listens: SocketAddr, prefix: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(record(&dir), "").unwrap();
        let child = spawn(listens, prefix, &record(&dir)).await;
        Server { child, addr, listens, prefix, dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap().try_into().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Ends it by this signal.
    pub(crate) async fn end(&mut self, signal: Signal) {
        self.signal(signal);
        within("a function server to end", self.child.wait()).await.unwrap();
    }

    /// A new process in the place of the one that ended.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(self.listens, self.prefix, &record(&self.dir)).await;
    }

    /// Adds all that it was ever asked.
    pub(crate) fn tell(&self, ran: &Ran) {
        ran.note_record(&record(&self.dir));
    }
}

async fn spawn(addr: SocketAddr, prefix: &[&str], record: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = match prefix {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.arg("--serve").arg(addr.to_string()).arg("--record").arg(record);
    // It ends when this pipe does, whatever happens to this process.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    within("a function server to listen", said.read_line(&mut line)).await.unwrap();
    assert_eq!(line, "listening\n", "a function server did not start");
    child
}

/// The process itself.
pub(crate) async fn serve(addr: SocketAddr, record: &Path) -> ExitCode {
    let file = OpenOptions::new().append(true).open(record).unwrap();
    let origin = Origin::http1().reply(move |request| {
        // One write for a line: what is there is whole.
        let line = format!("{} {}\n", request.method(), request.target());
        (&file).write_all(line.as_bytes()).unwrap();
        match id_of(request.target()) {
            Some(id) => Reply::text(200, &text(id)),
            None => Reply::text(404, "no number"),
        }
    });
    let _origin = origin.start_at(addr).await;
    println!("listening");
    // Nothing is ever sent.
    let _ = tokio::io::stdin().read(&mut [0]).await;
    ExitCode::SUCCESS
}

fn record(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("record")
}
