//! Upgrade: a new process takes the listening sockets over from the running one, which ends with what it has begun.
//!
//! The sockets are the same open ones in both, so there is no moment at which a connection would be refused. The running process
//! starts the new one from the same path and with the same arguments; the new one loads its configuration, says that it is ready,
//! and waits for the word to begin. Until that word is given the running process serves, whatever fails.
//!
//! A third process stands between the two until the new one is ready. Then it leaves, and the new one has lost its parent: it
//! becomes a child of the service manager. systemd takes another process for its service's main one, too, but then neither
//! sees its end nor waits for it: it would stop it with SIGKILL.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use command_fds::{CommandFdExt, FdMapping};
use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
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
        let mut between = self.start(theirs).context("the new process could not be started")?;
        let leash = between.stdin.take();
        let id = match tokio::time::timeout(START_LIMIT, word.read_u32()).await {
            Ok(Ok(id)) => id,
            Ok(Err(_)) => bail!("the new process ended with {}", end(&mut between, leash).await),
            Err(_) => {
                bail!(
                    "the new process was not ready in time and ended with {}",
                    end(&mut between, leash).await
                )
            }
        };
        leave(&mut between, leash).await?;
        // Before the new process says anything to the manager, which listens to the main process only.
        tell_manager(&[NotifyState::MainPid(id)]);
        if let Err(error) = word.write_u8(BEGIN).await {
            tell_manager(&[NotifyState::MainPid(std::process::id())]);
            return Err(error).context("the new process left");
        }
        log::info!("process {id} has taken over");
        Ok(())
    }

    /// Starts the process in between.
    fn start(&self, channel: UnixStream) -> anyhow::Result<Child> {
        let (program, arguments) = as_called();
        let sockets = self.sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from));
        let descriptors = sockets.chain([Ok(OwnedFd::from(channel))]).collect::<io::Result<Vec<_>>>()?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env(listen::COUNT, descriptors.len().to_string())
            .env(listen::FROM_PREDECESSOR, "1")
            .env(BETWEEN, "1")
            .stdin(Stdio::piped())
            // They name this process.
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID");
        let mappings = (listen::FIRST_DESCRIPTOR..).zip(descriptors);
        let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        // Dropped with the command: the other end of the channel is then the new process's alone.
        Ok(command.fd_mappings(mappings)?.spawn()?)
    }
}

/// The side of the process in between, if this is it. Returns what the new one ended with, or zero when it goes on.
pub fn stand_between() -> anyhow::Result<Option<u8>> {
    if std::env::var_os(BETWEEN).is_none() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status: io::Result<u8> = runtime.block_on(async {
        let (program, arguments) = as_called();
        let mut child =
            Command::new(program).args(arguments).env_remove(BETWEEN).stdin(Stdio::null()).spawn()?;
        let mut leash = tokio::io::stdin();
        tokio::select! {
            status = child.wait() => Ok(status?.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
            word = leash.read_u8() => match word {
                Ok(_) => Ok(0),
                // The process to be replaced has given up, or is gone.
                Err(_) => child.kill().await.map(|()| 1),
            },
        }
    });
    // It would wait for the thread that reads the leash.
    runtime.shutdown_background();
    Ok(Some(status?))
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
        word.write_u32(std::process::id()).await.context(GIVEN_UP)?;
        match word.read_u8().await {
            Ok(BEGIN) => Ok(()),
            Ok(_) => bail!("the process to be replaced said something unknown"),
            Err(error) => Err(error).context(GIVEN_UP),
        }
    }
}

/// A path that leads to another file by now is the point of it.
fn as_called() -> (OsString, impl Iterator<Item = OsString>) {
    let mut arguments = std::env::args_os();
    (arguments.next().unwrap_or_else(|| OsString::from("/proc/self/exe")), arguments)
}

/// Lets the process in between leave. When it has left, the new one has another parent.
async fn leave(between: &mut Child, leash: Option<ChildStdin>) -> anyhow::Result<()> {
    if let Some(mut leash) = leash {
        leash.write_u8(LEAVE).await?;
    }
    let status = between.wait().await?;
    anyhow::ensure!(status.success(), "the new process ended with {status}");
    Ok(())
}

/// Makes sure that it ends.
async fn end(between: &mut Child, leash: Option<ChildStdin>) -> String {
    let ended = tokio::time::timeout(LAST_WORDS, between.wait()).await;
    // Without it, the process in between ends the new one and itself.
    drop(leash);
    let status = match ended {
        Ok(status) => status,
        Err(_) => between.wait().await,
    };
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Set for the process in between.
const BETWEEN: &str = "FNGATE_BETWEEN";
const LEAVE: u8 = b'l';
const BEGIN: u8 = b'b';
const GIVEN_UP: &str = "the process to be replaced has given the upgrade up";
/// How long a new process may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a process that closed its channel may take to end.
const LAST_WORDS: Duration = Duration::from_secs(1);
