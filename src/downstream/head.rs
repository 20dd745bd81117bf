//! What a request head must look like before Pingora sees it.
//!
//! Owns the grammar of RFC 9112 as far as framing, authority and field syntax go, in its strict reading: whatever two parsers
//! could take in two ways is refused. It looks at bytes only: it never changes one, never allocates and never waits.

use http::{HeaderName, HeaderValue};

use super::grammar::{
    BARE_CR, BARE_LF, TARGET, TOKEN, all, as_str, authority_is_valid, bad, is, span, token_span, trim,
    value_span,
};
use super::{Cause, Refusal};

/// How large a head may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadLimits {
    /// The request line without its CRLF; RFC 9112 section 3 asks for 8000 at least.
    pub request_line: usize,
    /// One field line without its CRLF.
    pub field: usize,
    /// The head with everything in it.
    pub whole: usize,
    /// Field lines.
    pub fields: usize,
}

impl HeadLimits {
    /// Within these bounds, one line may have 16 KiB.
    pub fn new(fields: usize, whole: usize) -> Self {
        Self { request_line: LINE_LIMIT.min(whole), field: LINE_LIMIT.min(whole), whole, fields }
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self::new(200, 64 * 1024)
    }
}

/// What the bytes after the head depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub framing: Framing,
    pub upgrade: Upgrade,
    /// The body waits to be asked for, by a 100. A client of HTTP/1.0 does not know that answer, RFC 9110 section 10.1.1.
    pub expects: bool,
    /// There is no other request after this one (RFC 9112 section 9.6).
    pub closes: bool,
}

/// What the request asks to go on with in place of HTTP/1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Upgrade {
    #[default]
    None,
    /// A WebSocket, in the one form that is allowed.
    WebSocket,
    /// Something else, or in another form, which nobody has to follow (RFC 9110 section 7.8).
    Unknown,
}

/// Where the request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// With its head.
    None,
    Length(u64),
    Chunked,
}

/// Judges the head that `bytes` begin with, which must be complete, and says how long it is.
pub fn check(bytes: &[u8], limits: &HeadLimits) -> Result<(Head, usize), Refusal> {
    let (line, mut rest) = split_line(bytes);
    let line = line.strip_suffix(b"\r").ok_or(BARE_LF)?;
    if line.len() > limits.request_line {
        return Err(TARGET_TOO_LONG);
    }
    let request = RequestLine::parse(line)?;

    let mut seen = Seen::default();
    let mut fields = 0;
    while let Some((field, used)) = next_field(rest)? {
        fields += 1;
        if used - CRLF.len() > limits.field {
            return Err(FIELD_TOO_LARGE);
        }
        if fields > limits.fields {
            return Err(TOO_MANY_FIELDS);
        }
        seen.note(&field)?;
        rest = &rest[used..];
    }
    let length = bytes.len() - rest.len() + CRLF.len();
    if length > limits.whole {
        return Err(HEAD_TOO_LARGE);
    }
    Ok((seen.judge(&request)?, length))
}

/// Judges a head that came over HTTP/2 by the rules that its frames say nothing about: a client shall gain nothing by the choice
/// of its protocol. The library that reads the frames has a bound of its own on the whole.
pub fn check_http2(head: &http::request::Parts, limits: &HeadLimits) -> Result<(), Refusal> {
    if head.method.as_str().len() > METHOD_LIMIT {
        return Err(METHOD_TOO_LONG);
    }
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.request_line) {
        return Err(TARGET_TOO_LONG);
    }
    // RFC 9113 section 8.3.1 wants a path of RFC 3986, which has no other bytes; the library takes some.
    if head.uri.path_and_query().is_some_and(|target| !all(target.as_str().as_bytes(), TARGET)) {
        return Err(bad("the request target holds a byte that is not allowed there"));
    }
    if head.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(bad("the scheme is neither http nor https"));
    }
    if head.uri.authority().is_some_and(|authority| !authority_is_valid(authority.as_str().as_bytes())) {
        return Err(bad("the authority is not a host with an optional port"));
    }
    let mut seen = Seen::default();
    let mut fields = 0;
    let mut whole = 0;
    for (name, value) in &head.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        // A cookie may come in any number of crumbs (RFC 9113 section 8.2.3).
        fields += usize::from(name != b"cookie");
        if name.len() + value.len() > limits.field {
            return Err(FIELD_TOO_LARGE);
        }
        whole += name.len() + value.len();
        if trim(value).len() < value.len() {
            return Err(bad("a header value begins or ends with a blank"));
        }
        if !name_is_token(name) {
            return Err(bad(NO_NAME));
        }
        seen.note(&Field { name, has_underscore: name.contains(&b'_'), value })?;
    }
    if whole > limits.whole {
        return Err(HEAD_TOO_LARGE);
    }
    if fields > limits.fields { Err(TOO_MANY_FIELDS) } else { Ok(()) }
}

/// Whether a name and a value that the library has taken from the frames of HTTP/2 could stand in a head of HTTP/1: it takes more.
pub fn is_field(name: &HeaderName, value: &HeaderValue) -> bool {
    name_is_token(name.as_str().as_bytes()) && trim(value.as_bytes()).len() == value.len()
}

/// The library takes this byte for one of a token (RFC 9110 section 5.6.2), and no other that is none.
fn name_is_token(name: &[u8]) -> bool {
    memchr::memchr(b'"', name).is_none()
}

/// Looks for the end of a head that arrives in pieces, and stops early at what can no longer become a good one.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// How far earlier calls have looked.
    looked: usize,
    /// Where the unfinished line begins.
    line: usize,
}

impl Search {
    /// Whether `bytes`, all that has come so far, hold a complete head. Earlier calls have seen a beginning of them.
    pub(super) fn is_complete(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<bool, Refusal> {
        // Most heads come in one piece that holds nothing else; what is in it is for `check` to see.
        if bytes.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
        if bytes.first().is_some_and(|&byte| !is(byte, TOKEN)) {
            return Err(bad("the request line does not begin with a method"));
        }
        while let Some(found) = memchr::memchr(b'\n', &bytes[self.looked..]) {
            let lf = self.looked + found;
            self.looked = lf + 1;
            if lf == self.line || bytes[lf - 1] != b'\r' {
                return Err(BARE_LF);
            }
            if lf - 1 == self.line {
                return Ok(true);
            }
            self.line = lf + 1;
        }
        self.looked = bytes.len();

        let unfinished = bytes.len() - self.line;
        if self.line == 0 && unfinished > limits.request_line + CRLF.len() {
            return Err(TARGET_TOO_LONG);
        }
        if unfinished > limits.field + CRLF.len() {
            return Err(FIELD_TOO_LARGE);
        }
        if bytes.len() > limits.whole {
            return Err(HEAD_TOO_LARGE);
        }
        Ok(false)
    }
}

/// Method and path of a head that may be unfinished or wrong, for the log: only what is safe to print, without the query.
pub(super) fn identify(bytes: &[u8]) -> (Option<&str>, Option<&str>) {
    let (line, _) = split_line(bytes);
    let Some(space) = line.iter().position(|&byte| byte == b' ') else { return (None, None) };
    let (method, target) = (&line[..space], &line[space + 1..]);
    if method.is_empty() || method.len() > METHOD_LIMIT || !all(method, TOKEN) {
        return (None, None);
    }
    let path = target
        .iter()
        .position(|&byte| matches!(byte, b' ' | b'?'))
        .map(|end| &target[..end.min(LOGGED_PATH_LIMIT)])
        .filter(|path| path.first() == Some(&b'/') && all(path, TARGET));
    (as_str(method), path.and_then(as_str))
}

/// One field line.
struct Field<'a> {
    name: &'a [u8],
    has_underscore: bool,
    /// Without the blanks around it.
    value: &'a [u8],
}

/// The next field line of `bytes` and its length with CRLF, or nothing at the empty line.
fn next_field(bytes: &[u8]) -> Result<Option<(Field<'_>, usize)>, Refusal> {
    let (colon, has_underscore) = token_span(bytes);
    let (name, rest) = bytes.split_at(colon);
    match (name, rest) {
        (_, [b':', ..]) if !name.is_empty() => {}
        ([], [b'\r', b'\n', ..]) => return Ok(None),
        ([], [b' ' | b'\t', ..]) => return Err(bad("a header line begins with a blank")),
        ([], [b':', ..]) => return Err(bad("a header has no name")),
        (_, [b' ' | b'\t', ..]) => return Err(bad("there is a blank before the colon of a header")),
        (_, [b'\r', b'\n', ..]) => return Err(bad("a header line has no colon")),
        (_, [b'\n', ..]) => return Err(BARE_LF),
        (_, [b'\r', ..]) => return Err(BARE_CR),
        _ => return Err(bad(NO_NAME)),
    }
    let start = colon + 1;
    let end = start + value_span(&bytes[start..]);
    match &bytes[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r', ..] => return Err(BARE_CR),
        [b'\n', ..] => return Err(BARE_LF),
        _ => return Err(bad("a header value holds a control character")),
    }
    let value = trim(&bytes[start..end]);
    Ok(Some((Field { name, has_underscore, value }, end + CRLF.len())))
}

struct RequestLine<'a> {
    method: &'a [u8],
    authority: Option<&'a [u8]>,
    version: Version,
}

#[derive(PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        let (method, rest) = line.split_at(span(line, TOKEN));
        if method.is_empty() || rest.first() != Some(&b' ') {
            return Err(bad("the method is not a token followed by one space"));
        }
        if method.len() > METHOD_LIMIT {
            return Err(METHOD_TOO_LONG);
        }
        let rest = &rest[1..];
        let (target, rest) = rest.split_at(span(rest, TARGET));
        if target.is_empty() || rest.first() != Some(&b' ') {
            return Err(bad("the request target holds a byte that is not allowed there"));
        }
        let version = match &rest[1..] {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            _ => return Err(bad("the request line does not end with HTTP/1.1 or HTTP/1.0")),
        };
        if method == b"CONNECT" {
            return match authority_is_valid(target) {
                true => Err(NO_TUNNELS),
                false => Err(bad("the request target is not an authority")),
            };
        }
        let authority = match target {
            [b'/', ..] => None,
            b"*" if method == b"OPTIONS" => None,
            _ => Some(absolute_authority(target)?),
        };
        Ok(Self { method, authority, version })
    }
}

/// The authority of an absolute-form target; any other form that gets here is for no method of ours.
fn absolute_authority(target: &[u8]) -> Result<&[u8], Refusal> {
    const FORM: Refusal = bad("the request target has a form that its method does not allow");
    let scheme = target.iter().position(|&byte| byte == b':').ok_or(FORM)?;
    if !target[..scheme].eq_ignore_ascii_case(b"http") && !target[..scheme].eq_ignore_ascii_case(b"https") {
        return Err(FORM);
    }
    let rest = target[scheme + 1..].strip_prefix(b"//").ok_or(FORM)?;
    let end = rest.iter().position(|&byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let authority = &rest[..end];
    if !authority_is_valid(authority) {
        return Err(bad("the authority of the request target is not a host with an optional port"));
    }
    Ok(authority)
}

/// The fields that decide about framing and authority, gathered line by line.
#[derive(Default)]
struct Seen<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    expect: bool,
    /// How many things `Connection` names, in all its lines, and whether `upgrade` and `close` are among them.
    connection_options: usize,
    connection_upgrade: bool,
    connection_close: bool,
    upgrade: Upgrade,
}

impl<'a> Seen<'a> {
    fn note(&mut self, field: &Field<'a>) -> Result<(), Refusal> {
        let Field { name, has_underscore, value } = *field;
        // By length first: most fields of most requests are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                once(&mut self.host, value, "there is more than one Host")?;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if self.expect || !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(EXPECTATION);
                }
                self.expect = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                let is_first = self.upgrade == Upgrade::None;
                let is_known = is_first && value.eq_ignore_ascii_case(b"websocket");
                self.upgrade = if is_known { Upgrade::WebSocket } else { Upgrade::Unknown };
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let options = value.split(|&byte| byte == b',').map(trim).filter(|option| !option.is_empty());
                for option in options {
                    self.connection_options += 1;
                    self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    self.connection_close |= option.eq_ignore_ascii_case(b"close");
                    check_connection_option(option)?;
                }
                if self.connection_options > CONNECTION_OPTIONS {
                    return Err(bad("Connection names too many headers"));
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                once(&mut self.length, content_length(value)?, "there is more than one Content-Length")?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked {
                    return Err(bad("there is more than one Transfer-Encoding"));
                }
                transfer_coding(value)?;
                self.chunked = true;
            }
            _ => {}
        }
        if has_underscore && impersonates(name) {
            return Err(bad("a header name uses an underscore to look like another header"));
        }
        Ok(())
    }

    fn judge(self, request: &RequestLine<'_>) -> Result<Head, Refusal> {
        match self.host {
            None if request.version == Version::Http11 => return Err(bad("there is no Host")),
            Some(host) if !authority_is_valid(host) => {
                return Err(bad("Host is not a host with an optional port"));
            }
            // Byte for byte, as Pingora compares them: it would refuse the rest without a line in our log.
            Some(host) if request.authority.is_some_and(|authority| authority != host) => {
                return Err(bad("Host differs from the authority of the request target"));
            }
            _ => {}
        }
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(bad("there are both Content-Length and Transfer-Encoding")),
            (true, None) if request.version == Version::Http10 => {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            (true, None) => Framing::Chunked,
            (false, None | Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
        };
        let may_upgrade = self.connection_upgrade
            && framing == Framing::None
            && request.method == b"GET"
            && request.version == Version::Http11;
        let upgrade = match self.upgrade {
            Upgrade::WebSocket if !may_upgrade => Upgrade::Unknown,
            asked => asked,
        };
        let expects = self.expect && framing != Framing::None && request.version == Version::Http11;
        Ok(Head { framing, upgrade, expects, closes: self.connection_close })
    }
}

/// A client may have left out what it said itself, but not what says where the request goes and whence it comes.
fn check_connection_option(option: &[u8]) -> Result<(), Refusal> {
    if !all(option, TOKEN) {
        return Err(bad("Connection names what is no header"));
    }
    let is_forwarding = option
        .get(..FORWARDING_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(FORWARDING_PREFIX));
    if is_forwarding || option.eq_ignore_ascii_case(b"host") {
        return Err(bad("Connection names a header that cannot be left out"));
    }
    Ok(())
}

/// Fills what may be there only once.
fn once<T>(slot: &mut Option<T>, value: T, otherwise: &'static str) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad(otherwise)),
    }
}

/// Digits in their one canonical form: `005` is legal, but some reader down the line takes it for octal.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    const BAD: Refusal = bad("Content-Length is not one plain decimal number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) || (value[0] == b'0' && value.len() > 1) {
        return Err(BAD);
    }
    value
        .iter()
        .try_fold(0i64, |sum, digit| sum.checked_mul(10)?.checked_add(i64::from(digit - b'0')))
        .map(i64::unsigned_abs)
        .ok_or(BAD)
}

/// Exactly `chunked`. A list of codings that we merely do not know is told apart from nonsense.
fn transfer_coding(value: &[u8]) -> Result<(), Refusal> {
    const BAD: Refusal = bad("Transfer-Encoding is not exactly `chunked`");
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.split(|&byte| byte == b',').map(trim).peekable();
    while let Some(coding) = codings.next() {
        let last = codings.peek().is_none();
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        if coding.is_empty() || !all(coding, TOKEN) || (chunked && !last) {
            return Err(BAD);
        }
        if !chunked && coding.windows(7).any(|part| part.eq_ignore_ascii_case(b"chunked")) {
            return Err(BAD);
        }
    }
    Err(UNSUPPORTED_CODING)
}

/// Whether a name becomes one that decides about something once a CGI-like reader has made `-` of `_`.
fn impersonates(name: &[u8]) -> bool {
    const SENSITIVE: [&[u8]; 8] = [
        b"authorization",
        b"proxy-authorization",
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"x-request-id",
        b"x-real-ip",
        b"forwarded",
    ];
    let same = |given: &[u8], meant: &[u8]| {
        given.len() == meant.len()
            && given.iter().zip(meant).all(|(&g, &m)| g.to_ascii_lowercase() == m || (g == b'_' && m == b'-'))
    };
    SENSITIVE.iter().any(|meant| same(name, meant))
        || name.get(..FORWARDING_PREFIX.len()).is_some_and(|start| same(start, FORWARDING_PREFIX))
}

/// The first line without its LF, and what follows it. A line that does not end is all there is.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', bytes) {
        Some(lf) => (&bytes[..lf], &bytes[lf + 1..]),
        None => (bytes, &[]),
    }
}

const CRLF: &[u8; 2] = b"\r\n";
/// A line that no honest client exceeds, and RFC 9112 section 3 wants half of it taken.
const LINE_LIMIT: usize = 16 * 1024;
const METHOD_LIMIT: usize = 32;
/// What proxies tell each other of the client begins with this.
const FORWARDING_PREFIX: &[u8] = b"x-forwarded-";
/// Nobody has so much to leave out.
const CONNECTION_OPTIONS: usize = 10;
const LOGGED_PATH_LIMIT: usize = 2048;

const NO_NAME: &str = "a header name holds a byte that is not allowed there";
const NO_TUNNELS: Refusal =
    Refusal { status: 405, cause: Cause::MethodNotAllowed, reason: "CONNECT is not allowed here" };
const TARGET_TOO_LONG: Refusal =
    Refusal { status: 414, cause: Cause::BadRequest, reason: "the request line is too long" };
const EXPECTATION: Refusal = Refusal {
    status: 417,
    cause: Cause::BadRequest,
    reason: "only the expectation `100-continue` can be met",
};
const FIELD_TOO_LARGE: Refusal =
    Refusal { status: 431, cause: Cause::HeadersTooLarge, reason: "a header is too large" };
const HEAD_TOO_LARGE: Refusal =
    Refusal { status: 431, cause: Cause::HeadersTooLarge, reason: "the headers are too large" };
const TOO_MANY_FIELDS: Refusal =
    Refusal { status: 431, cause: Cause::HeadersTooLarge, reason: "there are too many headers" };
const METHOD_TOO_LONG: Refusal =
    Refusal { status: 501, cause: Cause::BadRequest, reason: "the method is not known here" };
const UNSUPPORTED_CODING: Refusal = Refusal {
    status: 501,
    cause: Cause::UnsupportedCoding,
    reason: "the only transfer coding understood here is chunked",
};

#[cfg(test)]
mod tests;
