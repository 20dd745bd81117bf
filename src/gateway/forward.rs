//! Forwarding: who the client is, what of its head may pass, and what of the function's.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPECT, FORWARDED, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts as ReqParts;
use http::response::Parts as RespParts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use ipnet::IpNet;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr};

use super::ctx::RequestCtx;
use super::purpose;
use crate::downstream::{Ends, address_value, authority_is_valid};
use crate::error::GatewayError;
use crate::platforms::head::{
    HopByHop, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP,
    X_REQUEST_ID, is_hop_by_hop, looks_like_another, refuse_look_alikes, remove_fields,
};
use crate::platforms::{Origin, Streamed, Target};
use crate::upstream::{Keepalive, Use};
use crate::values::Scheme;

/// What Pingora makes anew or frames by, in an answer.
const PINGORAS: [HeaderName; 4] = [CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING];

/// Who asks, as far as the function is told.
#[derive(Debug, Clone)]
pub struct Asker<'a> {
    pub ends: Ends,
    pub is_tls: bool,
    /// The host that it asked for.
    pub host: Option<HeaderValue>,
    /// The client's address, as far as it can be believed.
    pub client: IpAddr,
    pub trust: Trust,
    pub request_id: &'a str,
}

/// Whether the client's connection is encrypted.
pub(super) fn is_tls(session: &Session) -> bool {
    session.as_downstream().digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

/// The listener's side of it.
pub(super) fn port(session: &Session) -> u16 {
    let address = session.as_downstream().server_addr().and_then(|address| address.as_inet());
    address.map_or(0, |address| address.port())
}

/// Who is at the other end of it.
pub(super) fn peer(session: &Session) -> IpAddr {
    let address = session.as_downstream().client_addr().and_then(|address| address.as_inet());
    address.map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip().to_canonical())
}

/// The client behind trusted proxies: from the right, the first address of `X-Forwarded-For` that is no trusted proxy.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> (IpAddr, Trust) {
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

/// Whose forwarding headers are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
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

/// How the client reached the trusted proxy that is the peer, as far as the proxy says it; `peers` is how that one reached us. Of
/// a list, the first entry counts.
pub fn origin_before<'a>(head: &'a RequestHeader, peers: Origin<'a>) -> Origin<'a> {
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
pub fn accepted_request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let is_harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(&b);
    ((1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(is_harmless)).then_some(id)
}

const MAX_REQUEST_ID: usize = 128;

/// Forgets how the client wrote its field names, which go out in lower case, as they would over HTTP/2. Pingora remembers it in a
/// second map, which doubles the price of every header that is copied, removed or set.
pub fn forget_case(req: &mut RequestHeader) {
    // Another form of target than a path is remembered besides, and would be forgotten as well.
    if req.has_case() && req.raw_path().starts_with(b"/") {
        *req = take(req).into();
    }
}

/// Tells a function of HTTP/2 that its client understands trailers, which gRPC asks for. It is the one thing that `TE` may say there
/// (RFC 9113 section 8.2.2), and goes with the fields of the client's connection.
fn keep_trailers(asked: &RequestHeader, req: &mut ReqParts) {
    if asked.version == Version::HTTP_2
        && req.version == Version::HTTP_2
        && let Some(te) = asked.headers.get(TE)
    {
        req.headers.insert(TE, te.clone());
    }
}

fn take(req: &mut RequestHeader) -> ReqParts {
    let placeholder = RequestHeader::from(http::Request::new(()).into_parts().0);
    std::mem::replace(req, placeholder).into()
}

/// Makes the client's head the function's.
pub(super) fn rewrite(
    session: &Session,
    req: &mut RequestHeader,
    ctx: &RequestCtx,
) -> Result<(), GatewayError> {
    let function = ctx.function().ok_or(GatewayError::Internal)?;
    let Target::Streamed(target) = &function.target else { return Err(GatewayError::Internal) };
    let mut parts = take(req);
    leave_connection(&mut parts.headers, purpose(session));
    // Before the fields of ours are among them, which have none.
    let may_look_alike = parts.headers.keys().any(looks_like_another);
    announce(&mut parts.headers, ctx.asker(session))?;
    target.rewrite_request(&ctx.call(session), &mut parts)?;
    if may_look_alike {
        refuse_look_alikes(&parts.headers)?;
    }
    keep_trailers(session.req_header(), &mut parts);
    // HTTP/2 knows no such header, and its connections are pooled by groups that nobody shares.
    let may_say_close = parts.version != Version::HTTP_2 && purpose(session) == Use::Exchange;
    if function.upstream.terms().keepalive == Keepalive::Off && may_say_close {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    *req = parts.into();
    Ok(())
}

/// Leaves out what speaks of the client's connection only; the wish for a WebSocket is made anew. Pingora would do so as well, but asks
/// the map for each of a dozen names, which hardly a request has.
pub fn leave_connection(headers: &mut HeaderMap, purpose: Use) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let hop_by_hop = HopByHop::of(headers.get_all(CONNECTION).iter());
    remove_fields(headers, |name| hop_by_hop.is_of_connection(name));
    if purpose == Use::Tunnel {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// The same for a call that the gateway makes itself, with the whole body: it has met the wish to be asked for it.
pub fn leave_client(headers: &mut HeaderMap) {
    leave_connection(headers, Use::Exchange);
    headers.remove(EXPECT);
}

/// Tells the function who asks. Headers of an untrusted peer that claim to do so are replaced.
pub fn announce(headers: &mut HeaderMap, asker: Asker<'_>) -> Result<(), GatewayError> {
    let Asker { ends: Ends { peer, port }, is_tls, host, client, trust, request_id } = asker;
    let peer_is_trusted = trust == Trust::Peer;
    if !peer_is_trusted {
        // Servers believe more of them than are set here: `-Prefix`, `-Ssl`, `-Scheme`, `-Server`.
        remove_fields(headers, |name| *name == FORWARDED || name.as_str().starts_with("x-forwarded-"));
    }
    // Room for all that is set here and by most targets, so that the map grows once at most.
    headers.reserve(ROOM);
    let (forwarded_for, real_ip) = match trust {
        Trust::Nobody => (peer.clone(), peer),
        Trust::Peer => (extended(headers, peer)?, address_value(client)),
    };
    headers.insert(X_FORWARDED_FOR, forwarded_for);
    headers.insert(X_REAL_IP, real_ip);
    let keeps = |headers: &HeaderMap, name: &HeaderName| peer_is_trusted && headers.contains_key(name);
    if !keeps(headers, &X_FORWARDED_PROTO) {
        let scheme = HeaderValue::from_static(if is_tls { "https" } else { "http" });
        headers.insert(X_FORWARDED_PROTO, scheme);
    }
    if !keeps(headers, &X_FORWARDED_PORT) {
        headers.insert(X_FORWARDED_PORT, port);
    }
    if !keeps(headers, &X_FORWARDED_HOST) {
        match host {
            Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
            None => drop(headers.remove(&X_FORWARDED_HOST)),
        }
    }
    let id = HeaderValue::from_str(request_id).map_err(|_| GatewayError::Internal)?;
    headers.insert(X_REQUEST_ID, id);
    Ok(())
}

const ROOM: usize = 8;

/// Makes the head of a function's answer ours: without what belongs to the function's connection, with its length once, and with the
/// request's id. Pingora's second map, which remembers how the function wrote its names, goes first, as it would double the price of
/// all this: common names are written as usual, others in lower case, as over HTTP/2.
pub fn adopt(resp: &mut ResponseHeader, request_id: &str) -> pingora::Result<()> {
    let placeholder = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let spelled = std::mem::replace(resp, placeholder);
    // Most functions say what everybody says.
    let own = spelled.get_reason_phrase().filter(|own| Some(*own) != spelled.status.canonical_reason());
    let reason = own.map(str::to_owned);
    let mut parts = RespParts::from(spelled);
    tidy(&mut parts.headers)?;
    let is_interim = parts.status.is_informational();
    if is_interim || parts.status == StatusCode::NO_CONTENT {
        // It has no body to frame (RFC 9110 section 8.6, RFC 9112 section 6.1); some client may wait for one all the same.
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(TRANSFER_ENCODING);
    }
    if is_interim {
        // In a final answer it is Pingora's.
        parts.headers.remove(CONNECTION);
    }
    // An intermediary speaks for itself (RFC 9112 section 2.3), whatever version the function knows.
    parts.version = Version::HTTP_11;
    if !is_interim {
        let id = HeaderValue::from_str(request_id).or_err(ErrorType::InvalidHTTPHeader, "request id")?;
        parts.headers.insert(X_REQUEST_ID, id);
    }
    *resp = parts.into();
    match reason {
        Some(reason) => resp.set_reason_phrase(Some(&reason)),
        None => Ok(()),
    }
}

/// Removes what belongs to the function's connection and not to the client's, and states the length once. Most answers have few
/// fields and none of these, so one look at all names is cheaper than to ask the map for each of them.
fn tidy(headers: &mut HeaderMap) -> pingora::Result<()> {
    let (mut has_hop_by_hop, mut lengths) = (false, 0);
    for name in headers.iter().map(|(name, _)| name) {
        lengths += usize::from(name == CONTENT_LENGTH);
        has_hop_by_hop |= is_hop_by_hop(name) && name != TRANSFER_ENCODING;
    }
    if has_hop_by_hop {
        strip_hop_by_hop(headers);
    }
    if lengths > 0 { state_length_once(headers) } else { Ok(()) }
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let hop_by_hop = HopByHop::of(headers.get_all(CONNECTION).iter());
    remove_fields(headers, |name| hop_by_hop.is_of_connection(name) && !PINGORAS.contains(name));
}

/// Pingora takes a length that a function says twice, if it is the same, or with leading zeros; the client gets it once (RFC 9110
/// section 8.6), and in the form that nobody takes for octal.
fn state_length_once(headers: &mut HeaderMap) -> pingora::Result<()> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let (Some(first), second) = (lengths.next(), lengths.next()) else { return Ok(()) };
    let length = first.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    let zeros = length.iter().take_while(|digit| **digit == b'0').count();
    let length = &length[zeros.min(length.len().saturating_sub(1))..];
    if second.is_some() || length.len() != first.len() {
        let length =
            HeaderValue::from_bytes(length).or_err(ErrorType::InvalidHTTPHeader, "length of an answer")?;
        headers.insert(CONTENT_LENGTH, length);
    }
    Ok(())
}

/// Only HTTP/2 lets a cookie come in several fields; functions expect the one that RFC 9113 section 8.2.3 makes of them.
pub fn join_cookies(req: &mut RequestHeader) -> Result<(), GatewayError> {
    let crumbs: Vec<&[u8]> = req.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return Ok(());
    }
    let cookie = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| GatewayError::Internal)?;
    req.insert_header(COOKIE, cookie).map_err(|_| GatewayError::Internal)
}

/// The chain that a trusted proxy gives, and the proxy itself.
fn extended(headers: &HeaderMap, peer: HeaderValue) -> Result<HeaderValue, GatewayError> {
    let links: Vec<&[u8]> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter(|value| value.to_str().is_ok())
        .chain([&peer])
        .map(HeaderValue::as_bytes)
        .collect();
    HeaderValue::from_bytes(&links.join(&b", "[..])).map_err(|_| GatewayError::Internal)
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
    fn the_origin_is_the_peers_unless_a_trusted_proxy_says_another() {
        let origin_of = |fields: &[(&'static str, &str)]| {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            for (name, value) in fields {
                head.append_header(*name, *value).unwrap();
            }
            let authority = head.headers.get(http::header::HOST).map_or("", |host| host.to_str().unwrap());
            let peers = Origin { scheme: Scheme::Http, authority };
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
            ("proxy-authorization", "Basic"),
            ("http2-settings", "AAMAAABk"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("x-outer", "2"),
            ("content-length", "3"),
        ] {
            resp.append_header(name, value).unwrap();
        }
        adopt(&mut resp, "id").unwrap();
        let mut left: Vec<_> = resp.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "content-length", "x-outer", "x-request-id"]);
    }
}
