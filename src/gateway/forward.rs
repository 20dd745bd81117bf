//! Forwarding: who the client is, what of its head may pass, and what of the function's.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, TE};
use http::request::Parts as ReqParts;
use http::response::Parts as RespParts;
use http::{HeaderMap, HeaderValue, Version};
use ipnet::IpNet;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{ErrorType, OrErr};

use super::ctx::RequestCtx;
use crate::downstream::authority_is_valid;
use crate::error::GatewayError;
use crate::platforms::Origin;
use crate::values::Scheme;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Hop-by-hop fields of an answer. `Transfer-Encoding` is not among them: Pingora frames by it.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("te"),
    HeaderName::from_static("trailer"),
    HeaderName::from_static("upgrade"),
];

/// The listener a request came in on, as far as the function may want to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entrance {
    pub(super) is_tls: bool,
    pub(super) port: u16,
}

/// The client behind trusted proxies: from the right, the first address of `X-Forwarded-For` that is no trusted proxy.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> (IpAddr, Trust) {
    if !is_trusted(peer, trusted) {
        return (peer, Trust::Nobody);
    }
    let forwarded = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|b| *b == b','));
    let mut client = peer;
    for entry in forwarded {
        // What cannot be read ends the chain: nothing left of it can be believed.
        let Some(address) = parse_address(entry) else { break };
        client = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    (client, Trust::Peer)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    Nobody,
    Peer,
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare =
        text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(address, _)| address);
    bare.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

/// The host that the client asked for, with its port if it named one; empty without any.
pub(super) fn authority(head: &RequestHeader) -> &str {
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// How the peer reached this gateway.
pub(super) fn origin(head: &RequestHeader, entrance: Entrance) -> Origin<'_> {
    let scheme = if entrance.is_tls { Scheme::Https } else { Scheme::Http };
    Origin { scheme, authority: authority(head) }
}

/// How the client reached the trusted proxy that is the peer, as far as the proxy says it. Of a list, the first entry counts.
pub(super) fn origin_before<'a>(head: &'a RequestHeader, peers: Origin<'a>) -> Origin<'a> {
    let said = |name| {
        let list = head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        list.and_then(|list| list.split(',').next()).map(str::trim)
    };
    let scheme = match said(X_FORWARDED_PROTO) {
        Some(said) if said.eq_ignore_ascii_case("https") => Scheme::Https,
        Some(said) if said.eq_ignore_ascii_case("http") => Scheme::Http,
        _ => peers.scheme,
    };
    let host = said(X_FORWARDED_HOST).filter(|host| authority_is_valid(host.as_bytes()));
    Origin { scheme, authority: host.unwrap_or(peers.authority) }
}

/// An incoming request id is kept from trusted proxies only, and only if it is harmless.
pub(super) fn accepted_request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let is_harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
    ((1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_harmless)).then_some(id)
}

const MAX_REQUEST_ID: usize = 128;

/// Forgets how the client wrote its field names, which go out in lower case, as they would over HTTP/2. Pingora remembers it in a
/// second map, which doubles the price of every header that is copied, removed or set.
pub(super) fn forget_case(req: &mut RequestHeader) {
    // Another form of target than a path is remembered besides, and would be forgotten as well.
    if req.has_case() && req.raw_path().starts_with(b"/") {
        *req = take(req).into();
    }
}

/// Tells a function of HTTP/2 that its client understands trailers, which gRPC asks for. It is the one thing that `TE` may say there
/// (RFC 9113 section 8.2.2), and goes with the fields of the client's connection.
pub(super) fn keep_trailers(asked: &RequestHeader, req: &mut RequestHeader) -> Result<(), GatewayError> {
    let are_understood = asked.version == Version::HTTP_2 && req.version == Version::HTTP_2;
    match asked.headers.get(TE).filter(|_| are_understood) {
        Some(te) => req.insert_header(TE, te.clone()).map_err(|_| GatewayError::Internal),
        None => Ok(()),
    }
}

fn take(req: &mut RequestHeader) -> ReqParts {
    let placeholder = RequestHeader::from(http::Request::new(()).into_parts().0);
    std::mem::replace(req, placeholder).into()
}

/// Tells the function who asks. Headers of an untrusted peer that claim to do so are replaced.
pub(super) fn announce(
    req: &mut RequestHeader,
    ctx: &RequestCtx,
    peer: IpAddr,
    entrance: Entrance,
) -> Result<(), GatewayError> {
    let mut parts = take(req);
    set_forwarding(&mut parts.headers, ctx, peer, entrance)?;
    *req = parts.into();
    Ok(())
}

fn set_forwarding(
    headers: &mut HeaderMap,
    ctx: &RequestCtx,
    peer: IpAddr,
    entrance: Entrance,
) -> Result<(), GatewayError> {
    // Room for all that is set here and by most targets, so that the map grows once at most.
    headers.reserve(ROOM);
    let chain = if ctx.peer_is_trusted { joined(headers, &X_FORWARDED_FOR) } else { None };
    let forwarded_for = match chain {
        Some(chain) => {
            HeaderValue::try_from(format!("{chain}, {peer}")).map_err(|_| GatewayError::Internal)?
        }
        None => address_value(peer),
    };
    let real_ip = address_value(ctx.client);
    headers.insert(X_FORWARDED_FOR, forwarded_for);
    headers.insert(X_REAL_IP, real_ip);
    let keeps = |headers: &HeaderMap, name: &HeaderName| ctx.peer_is_trusted && headers.contains_key(name);
    if !keeps(headers, &X_FORWARDED_PROTO) {
        let scheme = HeaderValue::from_static(if entrance.is_tls { "https" } else { "http" });
        headers.insert(X_FORWARDED_PROTO, scheme);
    }
    if !keeps(headers, &X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, HeaderValue::from(entrance.port));
    }
    if !keeps(headers, &X_FORWARDED_HOST) {
        match headers.get(HOST).cloned() {
            Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
            None => drop(headers.remove(&X_FORWARDED_HOST)),
        }
    }
    if !ctx.peer_is_trusted {
        headers.remove(&FORWARDED);
    }
    let id = HeaderValue::from_str(ctx.request_id()).map_err(|_| GatewayError::Internal)?;
    headers.insert(X_REQUEST_ID, id);
    Ok(())
}

const ROOM: usize = 8;

/// The address as text; what most clients have is written without the formatting machinery, which takes six times as long.
fn address_value(address: IpAddr) -> HeaderValue {
    let IpAddr::V4(v4) = address else {
        return HeaderValue::try_from(address.to_string()).expect("addresses are visible ASCII");
    };
    let mut text = [0; 15];
    let mut length = 0;
    let mut push = |byte| {
        text[length] = byte;
        length += 1;
    };
    for (place, octet) in v4.octets().into_iter().enumerate() {
        if place > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
    HeaderValue::from_bytes(&text[..length]).expect("addresses are visible ASCII")
}

/// Drops Pingora's second map, which remembers how the function wrote its names, before anything is set or removed. Those of common
/// fields are written as usual, others in lower case, as over HTTP/2.
pub(super) fn forget_spelling(resp: &mut ResponseHeader) -> pingora::Result<()> {
    let placeholder = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let spelled = std::mem::replace(resp, placeholder);
    // Most functions say what everybody says.
    let own = spelled.get_reason_phrase().filter(|own| Some(*own) != spelled.status.canonical_reason());
    let reason = own.map(str::to_owned);
    *resp = ResponseHeader::from(RespParts::from(spelled));
    match reason {
        Some(reason) => resp.set_reason_phrase(Some(&reason)),
        None => Ok(()),
    }
}

/// Removes what belongs to the function's connection and not to the client's, and states the length once. Most answers have few
/// fields and none of these, so one look at all names is cheaper than to ask the map for each of them.
pub(super) fn tidy(resp: &mut ResponseHeader) -> pingora::Result<()> {
    let (mut is_hop_by_hop, mut lengths) = (false, 0);
    for name in resp.headers.iter().map(|(name, _)| name) {
        lengths += usize::from(name == CONTENT_LENGTH);
        is_hop_by_hop |= name == CONNECTION || HOP_BY_HOP.contains(name);
    }
    if is_hop_by_hop {
        strip_hop_by_hop(resp);
    }
    if lengths > 0 { state_length_once(resp) } else { Ok(()) }
}

fn strip_hop_by_hop(resp: &mut ResponseHeader) {
    let nominated: Vec<HeaderName> = resp
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        // These steer the framing of this very message, which is Pingora's.
        .filter(|name| !matches!(name.as_str(), "close" | "content-length" | "transfer-encoding" | "date"))
        .collect();
    for name in nominated.iter().chain(&HOP_BY_HOP) {
        resp.remove_header(name);
    }
}

/// Only HTTP/2 lets a cookie come in several fields; functions expect the one that RFC 9113 section 8.2.3 makes of them.
pub(super) fn join_cookies(req: &mut RequestHeader) -> Result<(), GatewayError> {
    let crumbs: Vec<&[u8]> = req.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return Ok(());
    }
    let cookie = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| GatewayError::Internal)?;
    req.insert_header(COOKIE, cookie).map_err(|_| GatewayError::Internal)
}

/// Pingora takes a length that a function says twice, if it is the same; the client gets it once (RFC 9110 section 8.6).
fn state_length_once(resp: &mut ResponseHeader) -> pingora::Result<()> {
    let mut lengths = resp.headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let (Some(first), second) = (lengths.next(), lengths.next()) else { return Ok(()) };
    let length = first.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    if second.is_none() && length.len() == first.len() {
        return Ok(());
    }
    let length =
        HeaderValue::from_bytes(length).or_err(ErrorType::InvalidHTTPHeader, "length of an answer")?;
    resp.insert_header(CONTENT_LENGTH, length)
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "127.0.0.1/32", "::1/128"].map(|net| net.parse().unwrap()).into()
    }

    #[track_caller]
    fn check(peer: &str, chain: &[&str], expected: &str) {
        let mut headers = HeaderMap::new();
        for value in chain {
            headers.append(X_FORWARDED_FOR, value.parse().unwrap());
        }
        let (client, _) = client(peer.parse().unwrap(), &headers, &trusted());
        assert_eq!(client.to_string(), expected, "{peer} {chain:?}");
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        check("203.0.113.9", &["1.2.3.4"], "203.0.113.9");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.2.3.4"], "198.51.100.7");
        check("10.0.0.1", &["6.6.6.6, 198.51.100.7", "10.2.3.4"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7, nonsense, 10.2.3.4"], "10.2.3.4");
        check("::ffff:10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7");
        check("::1", &["[2001:db8::5]:80"], "2001:db8::5");
    }

    #[test]
    fn addresses_are_written_as_usual() {
        for text in ["0.0.0.0", "127.0.0.1", "10.20.99.100", "255.255.255.255", "2001:db8::5"] {
            assert_eq!(address_value(text.parse().unwrap()), text);
        }
    }

    #[test]
    fn the_origin_is_the_peers_unless_a_trusted_proxy_says_another() {
        let origin_of = |fields: &[(&'static str, &str)]| {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            for (name, value) in fields {
                head.append_header(*name, *value).unwrap();
            }
            let peers = origin(&head, Entrance { is_tls: false, port: 80 });
            let clients = origin_before(&head, peers);
            let text = |origin: Origin<'_>| format!("{:?} {}", origin.scheme, origin.authority);
            (text(peers), text(clients))
        };
        let check = |fields: &[(&'static str, &str)], peers: &str, clients: &str| {
            assert_eq!(origin_of(fields), (peers.to_owned(), clients.to_owned()), "{fields:?}");
        };
        check(&[], "Http ", "Http ");
        check(&[("host", "in:8080")], "Http in:8080", "Http in:8080");
        let said = [("host", "in"), ("x-forwarded-proto", "HTTPS, http"), ("x-forwarded-host", "out:1, in")];
        check(&said, "Http in", "Https out:1");
        let nonsense = [("host", "in"), ("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a/\"b")];
        check(&nonsense, "Http in", "Http in");
    }

    #[test]
    fn only_harmless_request_ids_are_kept() {
        let id = |text: &str| {
            let headers =
                HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_bytes(text.as_bytes()).unwrap())]);
            accepted_request_id(&headers).map(str::to_owned)
        };
        assert_eq!(id("abc-123"), Some("abc-123".to_owned()));
        assert_eq!(id("a b"), None);
        assert_eq!(id("\"x\""), None);
        assert_eq!(id(&"x".repeat(129)), None);
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_are_removed() {
        let mut resp = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "close, X-Inner"),
            ("x-inner", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("x-outer", "2"),
            ("content-length", "3"),
        ] {
            resp.append_header(name, value).unwrap();
        }
        strip_hop_by_hop(&mut resp);
        let mut left: Vec<_> = resp.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "content-length", "x-outer"]);
    }
}
