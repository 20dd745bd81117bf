//! A function server that nobody here wrote: Google's functions framework for Node, from which OpenFunction's is derived,
//! with the functions of `tests/functions`. `./run test` installs it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::home::local;
use super::lines::Lines;
use super::within;

/// A process that serves one function.
pub(crate) struct Framework {
    child: Child,
    addr: SocketAddr,
    stdout: Lines,
}

impl Framework {
    /// Serves an export of `tests/functions/index.js` that takes requests.
    pub(crate) async fn serve(function: &str) -> Self {
        Self::start(function, "http").await
    }

    /// Serves one that takes CloudEvents.
    pub(crate) async fn consume(function: &str) -> Self {
        Self::start(function, "cloudevent").await
    }

    async fn start(function: &str, signature: &str) -> Self {
        let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/functions");
        let mut child = Command::new("node")
            .arg("--require")
            .arg(functions.join("loopback.js"))
            .arg(installed().join("node_modules/.bin/functions-framework"))
            .arg(format!("--source={}", functions.display()))
            .arg(format!("--target={function}"))
            .arg(format!("--signature-type={signature}"))
            .env_remove("NODE_ENV")
            .env_remove("NODE_OPTIONS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("node does not start ({error}): {HOW_TO_INSTALL}"));
        let stdout = Lines::of(child.stdout.take().unwrap());
        let said = stdout.wait("the function server to listen", |all| port(all.iter()).is_some()).await;
        Self { child, addr: local(port(said.iter()).unwrap()), stdout }
    }

    /// `http://ip:port`, to which a test adds the path.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Waits until the function has said `line`.
    pub(crate) async fn says(&self, line: &str) {
        self.stdout.wait(&format!("{line:?} from the function"), |all| all.iter().any(|l| l == line)).await;
    }

    /// Asks the process to end, as whoever scales it down does.
    pub(crate) fn terminate(&self) {
        kill(self.pid().expect("the child was not waited for"), Signal::SIGTERM).unwrap();
    }

    pub(crate) async fn exit(&mut self) {
        within("the function server to end", self.child.wait()).await.unwrap();
    }

    fn pid(&self) -> Option<Pid> {
        Some(Pid::from_raw(self.child.id()?.try_into().unwrap()))
    }
}

impl Drop for Framework {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

/// Where `./run test` has put the packages, which must be those of the lock file.
fn installed() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/functions");
    let lock = std::fs::read_to_string(directory.join("package-lock.json")).unwrap_or_default();
    // npm writes the hidden one last.
    let whole = directory.join("node_modules/.package-lock.json").exists();
    let current = whole && lock == include_str!("../../functions/package-lock.json");
    assert!(current, "the functions framework is not in {}: {HOW_TO_INSTALL}", directory.display());
    directory
}

fn port<'a>(mut lines: impl Iterator<Item = &'a String>) -> Option<u16> {
    lines.find_map(|line| line.strip_prefix("listening on ")?.parse().ok())
}

const HOW_TO_INSTALL: &str =
    "`./run test` installs it, which takes Node.js 18 or newer, npm and a package registry";
