//! Upgrade: a new process takes the listening sockets over from the running one, which ends with what it has begun.
//!
//! The sockets are the same open ones in both, so there is no moment at which a connection would be refused. The running process
//! starts the new one from the same path and with the same arguments; the new one loads its configuration, says that it is ready,
//! and waits for the word to begin. Until that word is given the running process serves, whatever fails.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use command_fds::{CommandFdExt, FdMapping};
use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::notify as tell_manager;
use crate::listen;

/// The side of the running process.
pub struct Succession {
    sockets: Vec<TcpListener>,
    asked: Signal,
}

impl Succession {
    /// Begins to listen for the signal that asks for it. What is bound stays bound until this is dropped.
    pub fn offer<'a>(sockets: impl Iterator<Item = &'a TcpListener>) -> io::Result<Self> {
        let sockets = sockets.map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Succession { sockets, asked: signal(SignalKind::user_defined2())? })
    }

    /// Ends when another process serves.
    pub async fn completed(&mut self) {
        while self.asked.recv().await.is_some() {
            log::info!("upgrading");
            match self.hand_over().await {
                Ok(()) => return,
                Err(error) => {
                    let status = format!("upgrade failed: {error:#}");
                    log::error!("{status}; this process serves on");
                    tell_manager(&[NotifyState::Status(&status)]);
                }
            }
        }
        // The runtime is at its end, and with it the process.
        std::future::pending().await
    }

    async fn hand_over(&self) -> anyhow::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut word = tokio::net::UnixStream::from_std(ours)?;
        let mut child = self.start(theirs).context("the new process could not be started")?;
        match tokio::time::timeout(START_LIMIT, word.read_u8()).await {
            Ok(Ok(READY)) => {}
            Ok(_) => bail!("the new process ended with {}", end(&mut child).await),
            Err(_) => bail!("the new process was not ready in time and ended with {}", end(&mut child).await),
        }
        let Some(id) = child.id() else { bail!("the new process ended") };
        // Before the new process says anything to the manager, which listens to the main process only.
        tell_manager(&[NotifyState::MainPid(id)]);
        if let Err(error) = word.write_u8(BEGIN).await {
            tell_manager(&[NotifyState::MainPid(std::process::id())]);
            return Err(error).context("the new process left");
        }
        log::info!("process {id} has taken over");
        // Its end is for the manager to see, who becomes its parent when this process ends.
        std::mem::forget(child);
        Ok(())
    }

    fn start(&self, channel: UnixStream) -> anyhow::Result<Child> {
        let mut arguments = std::env::args_os();
        // As it was called: a path that leads to another file by now is the point of it.
        let program = arguments.next().unwrap_or_else(|| OsString::from("/proc/self/exe"));
        let sockets = self.sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from));
        let descriptors = sockets.chain([Ok(OwnedFd::from(channel))]).collect::<io::Result<Vec<_>>>()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env(listen::COUNT, descriptors.len().to_string())
            .env(listen::FROM_PREDECESSOR, "1")
            // They name this process.
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID");
        let mappings = (listen::FIRST_DESCRIPTOR..).zip(descriptors);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        // Dropped with the command: the other end of the channel is then the new process's alone.
        Ok(command.fd_mappings(mappings)?.spawn()?)
    }
}

/// The side of the new process.
pub struct Predecessor(UnixStream);

impl Predecessor {
    pub fn new(channel: UnixStream) -> Self {
        Predecessor(channel)
    }

    /// Says that this process can serve, and waits until it is to begin.
    pub async fn relieve(self) -> anyhow::Result<()> {
        self.0.set_nonblocking(true)?;
        let mut word = tokio::net::UnixStream::from_std(self.0)?;
        word.write_u8(READY).await.context(GIVEN_UP)?;
        match word.read_u8().await {
            Ok(BEGIN) => Ok(()),
            Ok(_) => bail!("the process to be replaced said something unknown"),
            Err(error) => Err(error).context(GIVEN_UP),
        }
    }
}

/// Makes sure that it ends.
async fn end(child: &mut Child) -> String {
    if tokio::time::timeout(LAST_WORDS, child.wait()).await.is_err() {
        // It fails when the process has just ended.
        let _ = child.start_kill();
    }
    match child.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

const READY: u8 = b'r';
const BEGIN: u8 = b'b';
const GIVEN_UP: &str = "the process to be replaced has given the upgrade up";
/// How long a new process may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a process that closed its channel may take to end.
const LAST_WORDS: Duration = Duration::from_secs(1);
