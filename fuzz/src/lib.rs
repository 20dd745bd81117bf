//! What the targets share: functions as a file describes them, heads as Pingora reads them, and guards without a network.

use std::cell::RefCell;
use std::io::Cursor;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fngate::config::{self, Style};
use fngate::downstream::{HeadLimits, Observer, Refused, Terms, check};
use fngate::platforms::template::Parameters;
use fngate::platforms::{Call, Origin, Target};
use fngate::uri::check_path;
use fngate::values::Scheme;
use pingora_core::protocols::http::v1::client::http_req_header_to_wire;
use pingora_core::protocols::http::v1::server::HttpSession;
use pingora_http::RequestHeader;
use tokio::runtime::{Builder, Runtime};

/// The function behind the route `/fn/*`. `target` is the inside of the target's braces.
pub fn function(target: &str) -> Target {
    let text = format!("routes:\n  - name: fn\n    match: {{ path: /fn/* }}\n    target: {{ {target} }}\n");
    let loaded = config::load_text(Path::new("fngate.yaml"), text);
    let report = loaded.report.render(Style::Plain);
    loaded.plan.and_then(|plan| plan.routes.into_iter().next()).expect(&report).function.target
}

/// The head that these bytes begin with, as Pingora reads what the guard lets through, and what follows it; nothing for one that the
/// route `/fn/*` does not serve.
pub fn read_request(bytes: &[u8]) -> Option<(RequestHeader, &[u8])> {
    // The guard is asked once the end of a head has come.
    bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    let (_, length) = check(bytes, &HeadLimits::default()).ok()?;
    let mut session = HttpSession::new(Box::new(Cursor::new(bytes[..length].to_vec())));
    let read = RUNTIME.with_borrow(|runtime| runtime.block_on(session.read_request()));
    let head = match read {
        Ok(Some(read)) if read == length => session.req_header().clone(),
        // Pingora has rules of its own for what a target is.
        _ => return None,
    };
    let suffix = head.uri.path().strip_prefix("/fn/")?;
    check_path(suffix).ok()?;
    Some((head, &bytes[length..]))
}

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(runtime());
}

/// For whatever sets timers or leaves tasks behind.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// What a platform may know of this head on the route `/fn/*`.
pub fn call(head: &RequestHeader) -> Call<'_> {
    let path = head.uri.path();
    Call {
        method: &head.method,
        suffix: path.strip_prefix("/fn/"),
        parameters: Parameters::default(),
        query: head.uri.query(),
        path,
        origin: Origin { scheme: Scheme::Http, authority: "api.example.com" },
        request_id: "id-1",
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// A head as somebody else reads it.
pub struct Sent {
    pub method: String,
    pub target: String,
    /// Names in lower case, in the order in which they are sent.
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Sent {
    /// What Pingora writes for this head, read by another parser. All of it is one head.
    pub fn parse(head: &RequestHeader) -> Sent {
        let bytes = http_req_header_to_wire(head).expect("what is sent can be written");
        let mut fields = [httparse::EMPTY_HEADER; 512];
        let mut request = httparse::Request::new(&mut fields);
        assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
        Sent {
            method: request.method.expect("it has one").to_owned(),
            target: request.path.expect("it has one").to_owned(),
            fields: lower(request.headers),
        }
    }

    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        values(&self.fields, name)
    }
}

pub fn lower(fields: &[httparse::Header<'_>]) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect()
}

pub fn values<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(known, _)| known == name).map(|(_, value)| &value[..]).collect()
}

/// Whether a field speaks of the connection on which these came: by its name, or because `Connection` names it.
pub fn is_of_the_hop(fields: &[(String, Vec<u8>)], name: &str) -> bool {
    const HOP_BY_HOP: [&str; 10] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let names = |value: &&[u8]| {
        value
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    HOP_BY_HOP.contains(&name) || values(fields, "connection").iter().any(names)
}

/// The fields of a head before it was rewritten.
pub fn fields(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// `bytes` in pieces of these sizes, over and over; 0 is all that is left.
pub fn pieces<'a>(mut bytes: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let size = match sizes.next() {
            Some(0) | None => bytes.len(),
            Some(size) => usize::from(*size).min(bytes.len()),
        };
        let (piece, rest) = bytes.split_at(size);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// The outcome of what does not have to wait.
pub fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(tokio::task::unconstrained(future)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// The codes of what a guard refused.
#[derive(Default)]
pub struct Refusals(pub Mutex<Vec<&'static str>>);

impl Observer for Refusals {
    fn refused(&self, at: &Refused<'_>) {
        self.0.lock().expect("nobody panics with it").push(at.code);
    }
}

pub fn terms(control_frames: u32) -> (Arc<Terms>, Arc<Refusals>) {
    let refusals = Arc::new(Refusals::default());
    let terms = Terms {
        head: HeadLimits::new(20, 4096),
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        connections: 1,
        requests_per_connection: 1000,
        min_rate: 0,
        control_frames,
        observer: Arc::clone(&refusals) as Arc<dyn Observer>,
    };
    (Arc::new(terms), refusals)
}
