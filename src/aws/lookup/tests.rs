//! Every source against a stand-in of what it asks, over real sockets. Variables of the environment belong to a process, so each
//! test starts one of its own: this test program again, as [`probe`].

use std::convert::Infallible;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::super::{Keeper, iam};
use super::*;
use crate::aws::SigningScope;
use crate::diag::{Diagnostics, Scope};
use crate::telemetry;

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_environment_has_keys() {
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "s3cret")];
    let mut probe = Probe::start("{ source: environment }", keys).await;
    assert_eq!(probe.says().await, "AKIDENV -");
    probe.ends_with("AWS credentials (environment) found: environment, expiry never").await;

    let token = [keys[0], keys[1], ("AWS_SESSION_TOKEN", "t0ken")];
    let mut probe = Probe::start("{}", token).await;
    assert_eq!(probe.says().await, "AKIDENV t0ken");
    probe.ends_with("AWS credentials (default order) found: environment, expiry never").await;
}

#[tokio::test]
async fn shared_files_have_profiles() {
    let home = Home::new();
    let file = home.write(
        "credentials",
        "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = s3cret\n\
         [gateway]\naws_access_key_id = AKIDGATEWAY\naws_secret_access_key = s3cret\naws_session_token = t0ken\n",
    );
    let shared = ("AWS_SHARED_CREDENTIALS_FILE", file.as_str());
    for (yaml, variables, expected) in [
        ("{ source: profile }", vec![shared], "AKIDDEFAULT -"),
        ("{ profile: gateway }", vec![shared], "AKIDGATEWAY t0ken"),
        ("{ source: profile }", vec![shared, ("AWS_PROFILE", "gateway")], "AKIDGATEWAY t0ken"),
        (&format!("{{ profile: gateway, credentials_file: '{file}' }}"), vec![], "AKIDGATEWAY t0ken"),
    ] {
        let mut probe = Probe::start(yaml, variables).await;
        assert_eq!(probe.says().await, expected, "{yaml}");
        probe.ends_with("found: profile, expiry never").await;
    }
}

#[tokio::test]
async fn a_changed_file_is_read_again() {
    let home = Home::new();
    let client = http_client();
    let profile =
        |accesskey| format!("[default]\naws_access_key_id = {accesskey}\naws_secret_access_key = s3cret\n");
    let file = home.write("credentials", &profile("AKIDOLD"));
    let origin = Origin::Profile { name: None, credentials_file: Some(file.into()) };
    let lookup = Lookup { origin, region: "eu-west-1".to_owned() };

    assert_eq!(accesskey(&lookup.fetch(&client).await.unwrap()), "AKIDOLD");
    home.write("credentials", &profile("AKIDNEW"));
    assert_eq!(accesskey(&lookup.fetch(&client).await.unwrap()), "AKIDNEW");
}

#[tokio::test]
async fn an_instance_has_a_role_whose_keys_are_renewed_before_they_expire() {
    let imds =
        Service::start(imds(|count| keys(count, if count == 1 { Duration::from_secs(12) } else { HOUR })))
            .await;
    let mut probe = Probe::start("{ source: imds }", [imds.as_imds()]).await;
    assert_eq!(probe.says().await, "AKID1 t0ken1");
    let path = "/latest/meta-data/iam/security-credentials/gateway";
    imds.asked(path, 2).await;
    probe.until("AKID2 t0ken2").await;
    probe.ends_with("AWS credentials (imds) found: imds, expiry 20").await;

    let seen = imds.seen.lock().unwrap();
    let fetched: Vec<_> = seen.iter().filter(|seen| seen.path == path).map(|seen| seen.at).collect();
    assert!(fetched[1] - fetched[0] < Duration::from_secs(12), "{fetched:?}");
    // The version that a forwarded request could use as well is not spoken.
    assert!(
        seen.iter().all(|seen| seen.method == Method::PUT || seen.token.as_deref() == Some("imds-t0ken"))
    );
}

#[tokio::test]
async fn a_container_has_an_agent() {
    let home = Home::new();
    let agent = Service::start(container(|count| keys(count, HOUR))).await;
    let url = agent.url("/v1/credentials");
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());

    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "agent-t0ken");
    let mut probe = Probe::start("{ source: container }", [full, token]).await;
    assert_eq!(probe.says().await, "AKID1 t0ken1");
    probe.ends_with("AWS credentials (container) found: container, expiry 20").await;

    let file = home.write("token", "agent-t0ken");
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.as_str());
    let mut probe = Probe::start("{ source: container }", [full, token]).await;
    assert_eq!(probe.says().await, "AKID2 t0ken2");

    let mut probe = Probe::start("{ source: container }", [full]).await;
    assert_eq!(probe.says().await, "no_credential: the gateway has no valid credential for the function");
    probe.ends_with("AWS credentials (container) are not found: ").await;
}

#[tokio::test]
async fn a_service_account_has_a_role() {
    let home = Home::new();
    let token_file = home.write("token", "a.web.t0ken");
    let sts = Service::start(|_, seen: &Seen| {
        let arguments =
            ["Action=AssumeRoleWithWebIdentity", "WebIdentityToken=a.web.t0ken", "RoleSessionName=gw"];
        if !arguments.iter().all(|argument| seen.body.contains(argument)) {
            return (400, seen.body.clone());
        }
        (
            200,
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIDSTS</AccessKeyId>\
                 <SecretAccessKey>s3cret</SecretAccessKey><SessionToken>t0ken</SessionToken>\
                 <Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>",
                after(HOUR)
            ),
        )
    })
    .await;
    let mut probe = Probe::start(
        "{ source: web_identity, aws_region: eu-west-1 }",
        [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file.as_str()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gateway"),
            ("AWS_ROLE_SESSION_NAME", "gw"),
            ("AWS_ENDPOINT_URL_STS", &sts.url("")),
        ],
    )
    .await;
    assert_eq!(probe.says().await, "AKIDSTS t0ken");
    probe.ends_with("AWS credentials (web_identity) found: web_identity, expiry 20").await;
}

#[tokio::test]
async fn the_default_order_is_that_of_aws() {
    let home = Home::new();
    let file = home
        .write("credentials", "[default]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = s3cret\n");
    let imds = Service::start(imds(|_| keys(1, HOUR))).await;
    let agent = Service::start(|_, _: &Seen| (200, keys(2, HOUR))).await;
    let url = agent.url("/");
    let mut variables = vec![
        imds.as_imds(),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url),
        ("AWS_SHARED_CREDENTIALS_FILE", &file),
        ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ("AWS_ACCESS_KEY_ID", "AKIDENV"),
    ];
    for expected in ["AKIDENV -", "AKIDPROFILE -", "AKID2 t0ken2", "AKID1 t0ken1"] {
        let mut probe = Probe::start("{}", variables.clone()).await;
        assert_eq!(probe.says().await, expected, "{variables:?}");
        variables.pop();
        if expected == "AKIDENV -" {
            variables.pop();
        }
    }
}

#[tokio::test]
async fn reading_them_asks_nobody() {
    let agent = Service::start(|count, _: &Seen| (200, keys(count, HOUR))).await;
    let url = agent.url("/");
    let mut probe =
        Probe::start("{ source: container }", [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str())]).await;
    assert_eq!(probe.says().await, "AKID1 t0ken1");
    for _ in 0..100 {
        assert_eq!(probe.asked_again().await, "AKID1 t0ken1");
    }
    assert_eq!(agent.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_renewal_that_fails_leaves_the_valid_ones_in_use() {
    let agent = Service::start(|count, _: &Seen| match count {
        1 => (200, keys(1, Duration::from_secs(12))),
        _ => (403, "not now".to_owned()),
    })
    .await;
    let (url, begun) = (agent.url("/"), Instant::now());
    let mut probe =
        Probe::start("{ source: container }", [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str())]).await;
    assert_eq!(probe.says().await, "AKID1 t0ken1");
    agent.asked("/", 2).await;
    let meanwhile = probe.asked_again().await;
    // Their end is stated in whole seconds.
    if begun.elapsed() < Duration::from_secs(11) {
        assert_eq!(meanwhile, "AKID1 t0ken1");
    }
    // But not beyond their time.
    probe.until("none").await;
    probe.logs("AWS credentials (container) have expired and cannot be renewed: ").await;
    probe.ends_with("cannot be renewed; those known stay in use: ").await;
}

/// What runs in the process of its own: a keeper of what `PROBE` says. Writes what it has at first, and again for every line that
/// it reads.
#[test]
#[ignore = "run by the tests above, with an environment of their choice"]
fn probe() {
    let Ok(yaml) = std::env::var("PROBE") else { return };
    telemetry::service_log::install(log::LevelFilter::Debug).unwrap();
    let book = Diagnostics::new(PathBuf::new());
    let defaults = SigningScope { region: "us-east-1".to_owned(), service: "lambda".to_owned() };
    let iam = iam::compile(serde_yaml::from_str(&yaml).unwrap(), defaults, &Scope::root(&book, 0)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let keeper = Keeper::of(&iam.source, runtime.handle());
    match runtime.block_on(keeper.ready(PATIENCE)) {
        Ok(credentials) => println!("{PROMPT}{}", shown(&credentials)),
        Err(e) => println!("{PROMPT}{e}"),
    }
    for line in std::io::stdin().lock().lines() {
        line.unwrap();
        println!("{PROMPT}{}", keeper.current().map_or("none".to_owned(), |credentials| shown(&credentials)));
    }
    log::logger().flush();
}

/// Before what it says, among what the test runner says.
const PROMPT: &str = "probe: ";

fn shown(credentials: &Credentials) -> String {
    let keys = credentials.identity().data::<aws_credential_types::Credentials>().unwrap();
    format!("{} {}", keys.access_key_id(), keys.session_token().unwrap_or("-"))
}

fn accesskey(credentials: &Credentials) -> String {
    shown(credentials).split(' ').next().unwrap().to_owned()
}

/// A [`probe`] in its process.
struct Probe {
    /// It ends with this.
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: BufReader<ChildStderr>,
    /// What was read of it.
    log: String,
}

impl Probe {
    async fn start<'a>(yaml: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let name = format!("{}::probe", module_path!().split_once("::").unwrap().1);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored", "--nocapture"])
            .env_clear()
            // A machine that tests run on may be an instance.
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
            .env("HOME", "/nonexistent")
            .env("PROBE", yaml)
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { _child: child, stdin, stdout, stderr, log: String::new() }
    }

    async fn says(&mut self) -> String {
        let line = async {
            loop {
                let line = self.stdout.next_line().await.unwrap().expect("the probe ended");
                // Behind what the runner has begun to say.
                if let Some((_, said)) = line.split_once(PROMPT) {
                    return said.to_owned();
                }
            }
        };
        timeout(PATIENCE * 2, line).await.expect("the probe says nothing")
    }

    async fn asked_again(&mut self) -> String {
        self.stdin.write_all(b"\n").await.unwrap();
        self.says().await
    }

    async fn until(&mut self, expected: &str) {
        let asking = async {
            while self.asked_again().await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never {expected:?}"));
    }

    /// Waits until its log has this text in it.
    async fn logs(&mut self, text: &str) {
        let reading = async {
            while !self.log.contains(text) {
                let read = self.stderr.read_line(&mut self.log).await.unwrap();
                assert!(read > 0, "nothing about {text:?} in:\n{}", self.log);
            }
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("never {text:?}"));
    }

    /// Its log, which has this text in it and no secret.
    async fn ends_with(mut self, text: &str) {
        drop(self.stdin);
        let mut said = self.log;
        timeout(PATIENCE, self.stderr.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(said.contains(text), "nothing about {text:?} in:\n{said}");
        for secret in ["s3cret", "t0ken", "AKID"] {
            assert!(!said.contains(secret), "{secret} in:\n{said}");
        }
    }
}

/// What a service was asked.
struct Seen {
    at: Instant,
    method: Method,
    path: String,
    /// IMDS's session token.
    token: Option<String>,
    authorization: Option<String>,
    body: String,
}

/// A service on loopback, for as long as the test's runtime.
struct Service {
    addr: SocketAddr,
    imds_url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Service {
    /// `answer` gets the number of the request among those for the same path, from 1.
    async fn start(answer: impl Fn(usize, &Seen) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
        let (book, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (book, answer) = (Arc::clone(&book), Arc::clone(&answer));
                let answering = service_fn(move |request: hyper::Request<Incoming>| {
                    let (book, answer) = (Arc::clone(&book), Arc::clone(&answer));
                    async move {
                        let (head, body) = request.into_parts();
                        let field = |name: &str| {
                            head.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
                        };
                        let body = body.collect().await.unwrap().to_bytes();
                        let request = Seen {
                            at: Instant::now(),
                            path: head.uri.path().to_owned(),
                            token: field("x-aws-ec2-metadata-token"),
                            authorization: field("authorization"),
                            body: String::from_utf8(body.to_vec()).unwrap(),
                            method: head.method.clone(),
                        };
                        let mut book = book.lock().unwrap();
                        let count = book.iter().filter(|seen| seen.path == request.path).count() + 1;
                        let (status, text) = answer(count, &request);
                        book.push(request);
                        let answer = Response::builder().status(status);
                        // IMDS says how long its token lives; nobody else minds.
                        let answer = answer.header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
                        Ok::<_, Infallible>(answer.body(Full::<Bytes>::from(text)).unwrap())
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), answering));
            }
        });
        Self { addr, imds_url: format!("http://{addr}"), seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The variable by which it is taken for the metadata service.
    fn as_imds(&self) -> (&'static str, &str) {
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.imds_url)
    }

    /// Waits until it was asked for this path so many times.
    async fn asked(&self, path: &str, times: usize) {
        let asked = async {
            while self.seen.lock().unwrap().iter().filter(|seen| seen.path == path).count() < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{path} was not asked for {times} times"));
    }
}

/// An instance's metadata service, version 2 only, with the role `gateway`.
fn imds(keys: impl Fn(usize) -> String) -> impl Fn(usize, &Seen) -> (u16, String) {
    move |count, seen| match (&seen.method, seen.path.as_str(), seen.token.as_deref()) {
        (&Method::PUT, "/latest/api/token", _) => (200, "imds-t0ken".to_owned()),
        (&Method::GET, "/latest/meta-data/iam/security-credentials/", Some("imds-t0ken")) => {
            (200, "gateway".to_owned())
        }
        (&Method::GET, "/latest/meta-data/iam/security-credentials/gateway", Some("imds-t0ken")) => {
            (200, keys(count))
        }
        _ => (401, String::new()),
    }
}

/// The agent of ECS and of EKS, which wants its token.
fn container(keys: impl Fn(usize) -> String) -> impl Fn(usize, &Seen) -> (u16, String) {
    move |count, seen| match seen.authorization.as_deref() {
        Some("agent-t0ken") => (200, keys(count)),
        _ => (401, "{}".to_owned()),
    }
}

/// Keys with this number, as IMDS and the agent write them.
fn keys(number: usize, life: Duration) -> String {
    serde_json::json!({
        "Code": "Success",
        "AccessKeyId": format!("AKID{number}"),
        "SecretAccessKey": "s3cret",
        "Token": format!("t0ken{number}"),
        "Expiration": after(life),
    })
    .to_string()
}

fn after(life: Duration) -> String {
    let moment = OffsetDateTime::from(SystemTime::now() + life).replace_millisecond(0).unwrap();
    moment.format(&Rfc3339).unwrap()
}

/// A directory for files that are read.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Home(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = Path::join(self.0.path(), name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
