//! The built binary as a child process: its configuration in a directory of its own, its log lines in memory, its
//! ports chosen here. Whatever happens to the test, the child ends with it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::client::{Client, Request, Response};
use super::pki::Leaf;
use super::{PATIENCE, eventually, within};

/// A gateway that is ready to serve.
pub(crate) struct Gateway {
    child: Child,
    home: Home,
    stdout: Lines,
    stderr: Lines,
    /// What the service manager would hold: nobody else can bind the port meanwhile.
    _listener: Option<TcpListener>,
}

impl Gateway {
    /// Starts with these routes. A listener, the admin address and the access log on standard output are added unless
    /// the text has its own.
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
        eventually(&what, PATIENCE, async || {
            (self.metrics().await.counter(name, labels) == wanted).then_some(())
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

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
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
        if std::thread::panicking() {
            eprintln!("--- the end of the service log ---\n{}", self.stderr.end(LINES_SHOWN));
            eprintln!("--- the end of the access log ---\n{}", self.stdout.end(LINES_SHOWN));
        }
    }
}

/// How a gateway is to be started.
#[derive(Default)]
pub(crate) struct Builder {
    env: Vec<(String, String)>,
    files: Vec<(String, String)>,
    layout: Layout,
    activated: bool,
    open_files: Option<u32>,
}

/// How the configuration file lies in its directory.
#[derive(Clone, Copy, Default)]
enum Layout {
    #[default]
    Plain,
    /// As Kubernetes mounts a ConfigMap: a link to a file below `..data`, itself a link that is swapped.
    ConfigMap,
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
            return Command::new(BINARY);
        }
        let script =
            format!(r#"{}{}exec "$0" "$@""#, limit.unwrap_or_default(), hand_over.unwrap_or_default());
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(BINARY);
        command
    }

    fn spawn(&self, yaml: &str) -> Gateway {
        let home = Home::new(self.layout);
        for (name, text) in &self.files {
            home.write(name, text, 0o600);
        }
        home.write_config(yaml);
        let listener = self.activated.then(|| TcpListener::bind(local(home.ports.plain)).unwrap());
        let mut command = self.command();
        let stdin = listener.as_ref().map_or(Stdio::null(), |l| OwnedFd::from(l.try_clone().unwrap()).into());
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
        Gateway { child, home, stdout, stderr, _listener: listener }
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

/// What a run of the binary that ends by itself left behind.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Check {
    /// That the file was found faulty, and that every one of these words is in what was said about it.
    #[track_caller]
    pub(crate) fn refuses(&self, words: &[&str]) {
        assert_eq!(self.code, Some(78), "{self:#?}");
        let said = self.said();
        for word in words {
            assert!(said.contains(word), "nothing about {word:?} in:\n{said}");
        }
    }

    /// That the file was found good.
    #[track_caller]
    pub(crate) fn accepts(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }

    /// Both outputs.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// `fngate check` on this text; listener and admin address are added as for a start.
pub(crate) async fn check(yaml: &str) -> Check {
    let home = Home::new(Layout::Plain);
    home.write_config(yaml);
    run(&["check", home.config().to_str().unwrap()]).await
}

/// The binary with these arguments, to its end.
pub(crate) async fn run(arguments: &[&str]) -> Check {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the command to end", command.output()).await.unwrap();
    Check {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Samples of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// The sum over all series of this name that have these labels; 0 when there is none.
    pub(crate) fn counter(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).map(|sample| sample.value).sum()
    }

    pub(crate) fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.series(name, labels).next().is_some()
    }

    /// The value of a label of the first series of this name; empty when there is none.
    pub(crate) fn label(&self, name: &str, label: &str) -> String {
        self.series(name, &[]).find_map(|sample| sample.labels.get(label).cloned()).unwrap_or_default()
    }

    fn series(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|found| found == value))
        })
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(Sample::parse).collect())
    }
}

impl Sample {
    /// Label values of ours contain neither commas nor quotes.
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        Self { name: name.to_owned(), labels, value: value.parse().unwrap() }
    }
}

/// The directory and the ports of one gateway.
struct Home {
    dir: TempDir,
    layout: Layout,
    ports: Ports,
}

impl Home {
    fn new(layout: Layout) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            layout,
            ports: Ports { plain: free_port(), tls: free_port(), admin: free_port() },
        }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("fngate.yaml")
    }

    fn write_config(&self, yaml: &str) {
        let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
        let mut text = String::new();
        for (key, default) in [
            ("listeners:", "listeners: [ { address: \"127.0.0.1:$PORT\" } ]\n"),
            ("admin:", "admin: { address: \"127.0.0.1:$ADMIN_PORT\" }\n"),
            ("access_log:", "access_log: { path: stdout }\n"),
        ] {
            if !has(key) {
                text += default;
            }
        }
        text += yaml;
        let text = text
            .replace("$PORT", &self.ports.plain.to_string())
            .replace("$TLS_PORT", &self.ports.tls.to_string())
            .replace("$ADMIN_PORT", &self.ports.admin.to_string())
            .replace("$DIR", self.dir.path().to_str().unwrap());
        match self.layout {
            Layout::Plain => self.write("fngate.yaml", &text, 0o600),
            Layout::ConfigMap => self.swap_link(&text),
        }
    }

    fn swap_link(&self, text: &str) {
        let dir = self.dir.path();
        let version = format!("..{}", std::fs::read_dir(dir).unwrap().count());
        self.write(&format!("{version}/fngate.yaml"), text, 0o600);
        symlink(version, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        if !self.config().is_symlink() {
            symlink("..data/fngate.yaml", self.config()).unwrap();
        }
    }

    /// A watcher of the file sees the old text or the new one, never half of either.
    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let draft = self.dir.path().join(".draft");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&draft).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(draft, path).unwrap();
    }
}

struct Ports {
    plain: u16,
    tls: u16,
    admin: u16,
}

/// Lines of an output of the child, the last `LINES_KEPT` of them.
struct Lines {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    ended: bool,
}

impl Lines {
    fn of(output: impl AsyncRead + Unpin + Send + 'static) -> Self {
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

    async fn wait(&self, what: &str, enough: impl Fn(&VecDeque<String>) -> bool) -> Vec<String> {
        eventually(what, PATIENCE, async || {
            let kept = self.kept.lock().unwrap();
            enough(&kept.lines).then(|| kept.lines.iter().cloned().collect())
        })
        .await
    }

    async fn ended(&self) {
        eventually("the end of an output", PATIENCE, async || self.kept.lock().unwrap().ended.then_some(()))
            .await;
    }

    fn text(&self) -> String {
        self.end(LINES_KEPT)
    }

    /// The last lines, at most this many.
    fn end(&self, most: usize) -> String {
        let kept = self.kept.lock().unwrap();
        let skipped = kept.lines.len().saturating_sub(most);
        kept.lines.iter().skip(skipped).fold(String::new(), |text, line| text + line + "\n")
    }
}

/// A port that nobody had a moment ago, and that no other gateway of this run gets.
fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
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
const BINARY: &str = env!("CARGO_BIN_EXE_fngate");
const START_ATTEMPTS: usize = 5;
const LINES_KEPT: usize = 20_000;
const LINES_SHOWN: usize = 20;
