//! The built binary as a child process that serves. Whatever happens to the test, the child ends with it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::LazyLock;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::client::{Client, Request, Response};
use super::command::Check;
use super::home::{Home, Layout, local};
use super::lines::Lines;
use super::pki::Leaf;
use super::scrape::Metrics;
use super::{PATIENCE, becomes, eventually, within};

/// A gateway that is ready to serve.
pub(crate) struct Gateway {
    child: Child,
    home: Home,
    stdout: Lines,
    stderr: Lines,
    /// What the service manager would hold: nobody else can bind the port meanwhile.
    listener: Option<TcpListener>,
    builder: Builder,
}

impl Gateway {
    /// Starts with these routes. A listener, the admin address and the access log on standard output are added unless
    /// the text has its own; in it, `$PORT`, `$TLS_PORT` and `$ADMIN_PORT` stand for ports of this gateway, `$DIR` for
    /// the directory of its file.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::builder().start(yaml).await
    }

    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// The same with a second listener at `tls_addr`, over TLS with this certificate.
    pub(crate) async fn start_tls(leaf: &Leaf, yaml: &str) -> Self {
        let builder = Self::builder().file("site.pem", &leaf.cert).file("site.key", &leaf.key);
        builder.start(&format!("{TLS_LISTENERS}{yaml}")).await
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        local(self.home.ports.plain)
    }

    pub(crate) fn tls_addr(&self) -> SocketAddr {
        local(self.home.ports.tls)
    }

    /// The directory of the configuration file; `$DIR` in its text.
    pub(crate) fn dir(&self) -> &Path {
        self.home.dir.path()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("the child was not waited for").try_into().unwrap())
    }

    /// A connection for as many requests as the test likes.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr()).await
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        self.send(&Request::get(target)).await
    }

    pub(crate) async fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Response {
        self.send(&Request::post(target, body)).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: &Request) -> Response {
        self.client().await.call(request).await
    }

    pub(crate) async fn admin_get(&self, target: &str) -> Response {
        self.admin_send(&Request::get(target)).await
    }

    pub(crate) async fn admin_send(&self, request: &Request) -> Response {
        Client::connect(local(self.home.ports.admin)).await.call(request).await
    }

    /// The same for a gateway that may be on its way out.
    pub(crate) async fn try_admin_get(&self, target: &str) -> Option<Response> {
        Client::try_connect(local(self.home.ports.admin)).await?.try_call(&Request::get(target)).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin_get("/metrics").await.text())
    }

    /// Waits until a counter, summed over the series with these labels, has a value.
    pub(crate) async fn counts(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let what = format!("{name} {labels:?} to be {wanted}");
        becomes(&what, PATIENCE, async || {
            let now = self.metrics().await.counter(name, labels);
            if now == wanted { Ok(()) } else { Err(now) }
        })
        .await;
    }

    /// Waits for the access log to have this many lines, and returns all it has.
    pub(crate) async fn access_log(&self, lines: usize) -> Vec<Value> {
        let text = self.stdout.wait("lines in the access log", |all| all.len() >= lines).await;
        text.iter().map(|line| parse(line)).collect()
    }

    /// Waits for the access log line of the request with this id.
    pub(crate) async fn log_line(&self, request_id: &str) -> Value {
        let text =
            self.stdout.wait("the line of a request", |all| all.iter().any(|l| l.contains(request_id))).await;
        let mut lines: Vec<Value> =
            text.iter().map(|line| parse(line)).filter(|line| line["request_id"] == request_id).collect();
        assert_eq!(lines.len(), 1, "one request, one line: {lines:#?}");
        lines.remove(0)
    }

    /// The same for the request that got this answer.
    pub(crate) async fn line_of(&self, answer: &Response) -> Value {
        self.log_line(answer.header("x-request-id").unwrap()).await
    }

    /// What it wrote to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What it wrote to standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits until the service log says `text`.
    pub(crate) async fn says(&self, text: &str) {
        self.stderr
            .wait(&format!("{text:?} in the service log"), |all| all.iter().any(|l| l.contains(text)))
            .await;
    }

    /// Puts another configuration in the place of the running one, in one step.
    pub(crate) fn write_config(&self, yaml: &str) {
        self.home.write_config(yaml);
    }

    /// Writes a file beside the configuration, in one step.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        self.home.write(name, text, 0o600);
    }

    /// Replaces the configuration, asks for a reload, and waits for its outcome. True when it was taken.
    pub(crate) async fn reload(&self, yaml: &str) -> bool {
        self.write_config(yaml);
        // Whatever is counted from here on was read from the new file: a change of the file is noticed by itself, too.
        let before = self.metrics().await;
        self.signal(Signal::SIGHUP);
        let reloads = "fngate_config_reloads_total";
        let after = eventually("a reload", PATIENCE, async || {
            let now = self.metrics().await;
            (now.counter(reloads, &[]) > before.counter(reloads, &[])).then_some(now)
        })
        .await;
        after.counter("fngate_config_last_reload_successful", &[]) == 1.0
    }

    /// Kills the process and starts another in its place, as a service manager does: on the same ports, with the same file and
    /// the same inherited socket. Returns when it is ready.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.signal(Signal::SIGKILL);
        self.exit().await;
        (self.child, self.stdout, self.stderr) = self.builder.launch(&self.home, self.listener.as_ref());
        let status = self.ready().await;
        assert!(status.is_ok(), "the gateway ended with {status:?} instead of serving again");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Stops it and starts it again, as a service manager does. What it wrote before is forgotten.
    pub(crate) async fn restart(&mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.exit().await.success());
        (self.child, self.stdout, self.stderr) = self.builder.launch(&self.home, self.listener.as_ref());
        self.ready().await.unwrap();
    }

    /// Waits until as many processes have taken over, and returns them.
    pub(crate) async fn successors(&self, count: usize) -> Vec<Pid> {
        let what = format!("{count} upgrades");
        eventually(&what, PATIENCE, async || Some(self.taken_over()).filter(|all| all.len() >= count)).await
    }

    fn taken_over(&self) -> Vec<Pid> {
        let text = self.stderr.text();
        let id = |line: &str| line.split_once("process ")?.1.strip_suffix(" has taken over")?.parse().ok();
        text.lines().filter_map(id).map(Pid::from_raw).collect()
    }

    /// Waits for the child to end by itself.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        within("the gateway to end", self.child.wait()).await.unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A child that was waited for has no id any more; it may also have ended by itself a moment ago.
        if let Some(id) = self.child.id() {
            let pid = Pid::from_raw(id.try_into().unwrap());
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        // Not our children: whoever reaps the orphans of this machine reaps them.
        for successor in self.taken_over() {
            let _ = kill(successor, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- the end of the service log ---\n{}", self.stderr.end(LINES_SHOWN));
            eprintln!("--- the end of the access log ---\n{}", self.stdout.end(LINES_SHOWN));
        }
    }
}

/// How a gateway is to be started.
#[derive(Clone, Default)]
pub(crate) struct Builder {
    env: Vec<(String, String)>,
    files: Vec<(String, String)>,
    layout: Layout,
    activated: bool,
    open_files: Option<u32>,
}

impl Builder {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file in the directory of the configuration, readable by its owner.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Lays the configuration out as Kubernetes does; `write_config` then swaps the link.
    pub(crate) fn config_map(mut self) -> Self {
        self.layout = Layout::ConfigMap;
        self
    }

    /// Binds the plain listener here and hands it over as systemd does.
    pub(crate) fn activated(mut self) -> Self {
        self.activated = true;
        self
    }

    /// Lets the child have no more than this many files open.
    pub(crate) fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    pub(crate) async fn start(&self, yaml: &str) -> Gateway {
        // Somebody else may take a port between choosing it here and binding it there.
        for _ in 0..START_ATTEMPTS {
            let mut gateway = self.spawn(yaml);
            match gateway.ready().await {
                Ok(()) => return gateway,
                Err(status) => {
                    let text = gateway.settled_stderr().await;
                    assert!(
                        port_was_taken(&text),
                        "the gateway ended with {status} instead of serving:\n{text}"
                    );
                }
            }
        }
        panic!("no free port in {START_ATTEMPTS} attempts");
    }

    /// Starts where the gateway is expected to give up, and returns its exit status and what it said.
    pub(crate) async fn start_and_fail(&self, yaml: &str) -> Check {
        let mut gateway = self.spawn(yaml);
        let status = gateway.exit().await;
        let stderr = gateway.settled_stderr().await;
        Check { code: status.code(), stdout: gateway.stdout(), stderr }
    }

    /// The binary, or a shell that becomes it: the process stays the same, and with it the id.
    fn command(&self) -> Command {
        let limit = self.open_files.map(|most| format!("ulimit -n {most}; "));
        // Standard input is the listener, and becomes the first inherited socket.
        let hand_over = self.activated.then_some("exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; ");
        if limit.is_none() && hand_over.is_none() {
            return Command::new(BINARY.as_str());
        }
        let script =
            format!(r#"{}{}exec "$0" "$@""#, limit.unwrap_or_default(), hand_over.unwrap_or_default());
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(BINARY.as_str());
        command
    }

    fn spawn(&self, yaml: &str) -> Gateway {
        let home = Home::new(self.layout);
        for (name, text) in &self.files {
            home.write(name, text, 0o600);
        }
        home.write_config(yaml);
        let listener = self.activated.then(|| TcpListener::bind(local(home.ports.plain)).unwrap());
        let (child, stdout, stderr) = self.launch(&home, listener.as_ref());
        Gateway { child, home, stdout, stderr, listener, builder: self.clone() }
    }

    fn launch(&self, home: &Home, listener: Option<&TcpListener>) -> (Child, Lines, Lines) {
        let mut command = self.command();
        let stdin = listener.map_or(Stdio::null(), |l| OwnedFd::from(l.try_clone().unwrap()).into());
        let mut child = command
            .arg("run")
            .arg("-c")
            .arg(home.config())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        (child, stdout, stderr)
    }
}

impl Gateway {
    /// Waits for `/readyz`, or for the child to end.
    async fn ready(&mut self) -> Result<(), ExitStatus> {
        let admin = local(self.home.ports.admin);
        let child = &mut self.child;
        eventually("the gateway to be ready", PATIENCE, async || {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(Err(status));
            }
            let answer = Client::try_connect(admin).await?.try_call(&Request::get("/readyz")).await?;
            (answer.status() == 200).then_some(Ok(()))
        })
        .await
    }

    /// All of standard error of a child that has ended.
    async fn settled_stderr(&self) -> String {
        self.stderr.ended().await;
        self.stdout.ended().await;
        self.stderr.text()
    }
}

fn port_was_taken(stderr: &str) -> bool {
    stderr.to_ascii_lowercase().contains("in use")
}

#[track_caller]
fn parse(line: &str) -> Value {
    serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("a log line that is not JSON ({error}): {line:?}"))
}

/// The listeners of `start_tls`.
pub(crate) const TLS_LISTENERS: &str = "listeners:
  - address: 127.0.0.1:$PORT
  - address: 127.0.0.1:$TLS_PORT
    tls: { cert: $DIR/site.pem, key: $DIR/site.key }
";
/// The built binary, or what `FNGATE_BINARY` names: a wrapper that watches it, say.
pub(crate) static BINARY: LazyLock<String> = LazyLock::new(|| {
    std::env::var("FNGATE_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_fngate").to_owned())
});
const START_ATTEMPTS: usize = 5;
const LINES_SHOWN: usize = 20;
