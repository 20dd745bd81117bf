//! AWS as moto plays it, a program that we did not write: it checks signatures with AWS's own library for Python.
//!
//! What it does not check: when a request was signed and for which region. What it does unlike AWS: a form as body is lost, and
//! errors are XML.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use fngate::aws::{Credentials, SigningScope, sign};
use fngate::values::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pingora::http::RequestHeader;
use tokio::process::{Child, Command};

use super::client::{Client, Request, Response};
use super::eventually;
use super::home::{free_port, local};

/// A server with one function, a user and a role that may call it, and authentication on.
pub(crate) struct Moto {
    _server: Child,
    addr: SocketAddr,
    /// The long-term keys of the user.
    pub(crate) user: Keys,
    /// Temporary keys of the role, with their session token.
    pub(crate) role: Keys,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    pub(crate) accesskey: String,
    pub(crate) secretkey: String,
    pub(crate) session_token: Option<String>,
}

impl Keys {
    pub(crate) fn credentials(&self) -> Credentials {
        let secret = |text: &String| Secret::new(text.clone());
        let session_token = self.session_token.as_ref().map(secret);
        Credentials::new(&secret(&self.accesskey), &secret(&self.secretkey), session_token.as_ref())
    }

    /// What stands in an answer of IAM or STS.
    fn read(answer: &str) -> Self {
        let element = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>"))?;
            Some(rest.split('<').next()?.to_owned())
        };
        Self {
            accesskey: element("AccessKeyId").unwrap_or_else(|| panic!("no keys in {answer}")),
            secretkey: element("SecretAccessKey").unwrap(),
            session_token: element("SessionToken"),
        }
    }
}

impl Moto {
    /// The name of the function. It answers with what it was called with.
    pub(crate) const FUNCTION: &str = "hello";
    pub(crate) const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:hello";
    pub(crate) const REGION: &str = "us-east-1";

    pub(crate) async fn start() -> Self {
        let program = program();
        assert!(
            program.is_file(),
            "{} is missing: `./run test` installs it, which takes python3 and a network",
            program.display()
        );
        let addr = local(free_port());
        let server = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &addr.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("moto to listen", START, async || Client::try_connect(addr).await).await;
        let mut moto = Self { _server: server, addr, user: Keys::default(), role: Keys::default() };
        moto.populate().await;
        moto
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends this head and this body, as they are.
    pub(crate) async fn send(&self, head: &RequestHeader, body: &[u8]) -> Response {
        let target = std::str::from_utf8(head.raw_path()).unwrap();
        let request = Request::new(head.method.as_str(), target).body(body);
        let request = head
            .headers
            .iter()
            .fold(request, |request, (name, value)| request.header(name.as_str(), value.to_str().unwrap()));
        Client::connect(self.addr).await.call(&request).await
    }

    async fn populate(&mut self) {
        self.set("config", r#"{"lambda": {"use_docker": false}}"#).await;

        let policy = utf8_percent_encode(POLICY, NON_ALPHANUMERIC);
        let allowed = format!("PolicyName=call&PolicyDocument={policy}");
        self.ask("iam", "Action=CreateUser&UserName=gateway").await;
        self.ask("iam", &format!("Action=PutUserPolicy&UserName=gateway&{allowed}")).await;
        self.user = Keys::read(&self.ask("iam", "Action=CreateAccessKey&UserName=gateway").await);

        self.ask("iam", "Action=CreateRole&RoleName=caller&AssumeRolePolicyDocument=%7B%7D").await;
        self.ask("iam", &format!("Action=PutRolePolicy&RoleName=caller&{allowed}")).await;
        let assume = format!("Action=AssumeRole&RoleArn={ROLE}&RoleSessionName=gateway");
        self.role = Keys::read(&self.ask("sts", &assume).await);

        let function = format!(
            r#"{{"FunctionName": "{}", "Role": "{ROLE}", "Runtime": "python3.12", "Handler": "a.b", "Code": {{"ZipFile": "{EMPTY_ZIP}"}}}}"#,
            Self::FUNCTION
        );
        self.post("lambda", "/2015-03-31/functions", "application/json", &function).await;
        self.set("reset-auth", "0").await;
    }

    /// A setting of moto's own.
    async fn set(&self, name: &str, value: &str) {
        self.post("moto", &format!("/moto-api/{name}"), "application/json", value).await;
    }

    /// A call of a service that takes forms.
    async fn ask(&self, service: &str, form: &str) -> String {
        self.post(service, "/", "application/x-www-form-urlencoded", form).await
    }

    /// While authentication is off, a signature only says which service is meant.
    async fn post(&self, service: &str, path: &str, content_type: &str, body: &str) -> String {
        let mut head = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
        head.insert_header("Host", self.addr.to_string()).unwrap();
        head.insert_header("Content-Type", content_type).unwrap();
        let nobody =
            Keys { accesskey: "AKIDNOBODY".to_owned(), secretkey: "none".to_owned(), session_token: None };
        let scope = SigningScope { region: Self::REGION.to_owned(), service: service.to_owned() };
        sign(&mut head, body.as_bytes(), &scope, &nobody.credentials(), SystemTime::now()).unwrap();
        let answer = self.send(&head, body.as_bytes()).await;
        assert!(answer.status() < 300, "{service} {path}: {} {}", answer.status(), answer.text());
        answer.text()
    }
}

/// Where `./run test` puts it.
fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("tools/moto/bin/moto_server")
}

/// It loads every service that it plays.
const START: Duration = Duration::from_secs(60);
const ROLE: &str = "arn:aws:iam::123456789012:role/caller";
const POLICY: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "lambda:*", "Resource": "*"}]}"#;
/// The end of an archive without files.
const EMPTY_ZIP: &str = "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==";
