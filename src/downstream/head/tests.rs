use pingora_core::protocols::http::v1::server::HttpSession;

use super::*;

/// A head with the given lines after the request line; `Host` is there.
fn with(fields: &str) -> Vec<u8> {
    format!("POST /f HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").into_bytes()
}

fn with_bytes(fields: &[u8]) -> Vec<u8> {
    [b"POST /f HTTP/1.1\r\nHost: a.example\r\n".as_slice(), fields, b"\r\n"].concat()
}

fn line(request_line: &str) -> Vec<u8> {
    format!("{request_line}\r\nHost: a.example\r\n\r\n").into_bytes()
}

fn host(value: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n").into_bytes()
}

/// Judges a head the way the wire does. `Ok(None)` when it is not complete.
fn judge(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let limits = HeadLimits::default();
    match Search::default().is_complete(bytes, &limits)? {
        true => check(bytes, &limits).map(|(head, _)| Some(head)),
        false => Ok(None),
    }
}

#[track_caller]
fn check_refused(name: &str, bytes: &[u8], status: u16) {
    match judge(bytes) {
        Err(refusal) => assert_eq!(refusal.status, status, "{name}: {}", refusal.reason),
        Ok(other) => panic!("{name} passed: {other:?}"),
    }
}

#[track_caller]
fn check_framing(name: &str, bytes: &[u8], framing: Framing) {
    match judge(bytes) {
        Ok(Some(head)) => assert_eq!(head.framing, framing, "{name}"),
        Ok(None) => panic!("{name} is not complete"),
        Err(refusal) => panic!("{name} refused: {}", refusal.reason),
    }
}

#[test]
fn framing_is_read() {
    for (name, fields, framing) in [
        ("no body", "", Framing::None),
        ("zero length", "Content-Length: 0\r\n", Framing::None),
        ("length", "Content-Length: 17\r\n", Framing::Length(17)),
        ("length with blanks around", "content-length: \t 17 \t\r\n", Framing::Length(17)),
        ("largest length", "Content-Length: 9223372036854775807\r\n", Framing::Length(i64::MAX as u64)),
        ("chunked", "Transfer-Encoding: chunked\r\n", Framing::Chunked),
        ("chunked in capitals", "TRANSFER-ENCODING: CHUNKED\r\n", Framing::Chunked),
        ("chunked with blanks around", "Transfer-Encoding:\t chunked \r\n", Framing::Chunked),
    ] {
        check_framing(name, &with(fields), framing);
    }
    for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
        let head = format!("{method} /f HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n");
        check_framing(&format!("CL.0 and 0.CL: body of {method}"), head.as_bytes(), Framing::Length(5));
    }
}

#[test]
fn harmless_heads_pass() {
    for (name, head) in [
        ("opaque bytes in a value", with_bytes(b"X-Name: caf\xc3\xa9 \xff\r\n")),
        ("tab in a value", with("X-A: a\tb\r\n")),
        ("empty value", with("X-A:\r\n")),
        ("expect", with("Expect: 100-Continue\r\n")),
        ("underscore", with("X_Trace_Id: 1\r\n")),
        ("odd target", line(r#"GET /a|b{c}<d>^`"e?x=[1]&y={} HTTP/1.1"#)),
        ("escapes", line("GET /a%2F%20%3Fb//c HTTP/1.1")),
        ("options of the server", line("OPTIONS * HTTP/1.1")),
        ("absolute form", line("GET http://a.example/x?y HTTP/1.1")),
        ("absolute form without a path", line("GET HTTPS://a.example HTTP/1.1")),
        ("own method", line("PURGE-ALL! /x HTTP/1.1")),
        ("1.0 without host", b"GET / HTTP/1.0\r\n\r\n".to_vec()),
        ("host with port", host("a.example:65535")),
        ("host with underscore", host("my_service")),
        ("v6 host", host("[::1]:8080")),
    ] {
        check_framing(name, &head, Framing::None);
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    for (name, fields) in [
        ("CL.TE", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        ("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
        ("CL 0 and TE", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("duplicate CL, differing", "Content-Length: 3\r\nContent-Length: 4\r\n"),
        ("duplicate CL, equal", "Content-Length: 3\r\nContent-Length: 3\r\n"),
        ("CL list", "Content-Length: 5, 5\r\n"),
        ("CL +5", "Content-Length: +5\r\n"),
        ("CL -1", "Content-Length: -1\r\n"),
        ("CL 0x5", "Content-Length: 0x5\r\n"),
        ("CL 5_0", "Content-Length: 5_0\r\n"),
        ("CL 1e3", "Content-Length: 1e3\r\n"),
        ("CL empty", "Content-Length:\r\n"),
        ("CL blank", "Content-Length: \r\n"),
        ("CL with a blank inside", "Content-Length: 1 2\r\n"),
        ("CL over 2^63", "Content-Length: 9223372036854775808\r\n"),
        ("CL over 2^64", "Content-Length: 18446744073709551617\r\n"),
        ("CL 005", "Content-Length: 005\r\n"),
        ("CL 00", "Content-Length: 00\r\n"),
    ] {
        check_refused(name, &with(fields), 400);
    }
}

#[test]
fn te_must_be_exactly_chunked() {
    for (name, value, status) in [
        ("xchunked", "xchunked", 400),
        ("leading comma", ",chunked", 400),
        ("leading comma with blank", ", chunked", 400),
        ("trailing comma", "chunked,", 400),
        ("parameter", "chunked;x", 400),
        ("quoted", "\"chunked\"", 400),
        ("single quotes", "'chunked'", 400),
        ("twice in one line", "chunked, chunked", 400),
        ("not last", "chunked, identity", 400),
        ("not last with gzip", "chunked, gzip", 400),
        ("empty", "", 400),
        ("blank inside", "chun ked", 400),
        ("VT before", "\x0bchunked", 400),
        ("FF after", "chunked\x0c", 400),
        ("gzip before", "gzip, chunked", 501),
        ("gzip alone", "gzip", 501),
        ("identity", "identity", 501),
        ("unknown coding", "foo, chunked", 501),
    ] {
        check_refused(name, &with(&format!("Transfer-Encoding: {value}\r\n")), status);
    }
    check_refused("0x85 before", &with_bytes(b"Transfer-Encoding: \x85chunked\r\n"), 400);
    check_refused("0xA0 after", &with_bytes(b"Transfer-Encoding: chunked\xa0\r\n"), 400);
    check_refused("two lines", &with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400);
    check_refused("second line", &with("Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n"), 400);
    check_refused("split name", &with("Transfer-\r\n Encoding: chunked\r\n"), 400);
    check_refused(
        "TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    );
}

#[test]
fn malformed_lines_are_refused() {
    for (name, head) in [
        ("bare LF in a header", with("X-A: 1\nX-B: 2\r\n")),
        ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n".to_vec()),
        ("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n".to_vec()),
        ("bare LF throughout", b"GET / HTTP/1.1\nHost: a\n\n".to_vec()),
        ("bare CR in a value", with("X-A: 1\rX-B: 2\r\n")),
        ("bare CR in a name", with("X\r-A: 1\r\n")),
        ("CR CR LF", with("X-A: 1\r\r\n")),
        ("bare CR in the request line", line("GET /\r HTTP/1.1")),
        ("NUL in a value", with("X-A: a\0b\r\n")),
        ("SOH in a value", with("X-A: a\x01b\r\n")),
        ("VT in a value", with("X-A: a\x0bb\r\n")),
        ("ESC in a value", with("X-A: a\x1bb\r\n")),
        ("DEL in a value", with("X-A: a\x7fb\r\n")),
        ("obs-fold with a blank", with("X-A: a\r\n b\r\n")),
        ("obs-fold with a tab", with("X-A: a\r\n\tb\r\n")),
        ("obs-fold of nothing", with("X-A: a\r\n \r\n")),
        ("blank before colon", with("Content-Length : 3\r\n")),
        ("tab before colon", with("Transfer-Encoding\t: chunked\r\n")),
        ("no colon", with("Nonsense\r\n")),
        ("empty name", with(": value\r\n")),
        ("blank in a name", with("X A: 1\r\n")),
        ("brace in a name", with("X{A}: 1\r\n")),
        ("NUL in a name", with("X\0A: 1\r\n")),
        ("opaque byte in a name", with_bytes(b"X\xffA: 1\r\n")),
        ("leading blank in the first header", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec()),
        ("leading blank before the request line", line(" GET / HTTP/1.1")),
        ("two empty lines first", line("\r\n\r\nGET / HTTP/1.1")),
        ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
    ] {
        check_refused(name, &head, 400);
    }
}

#[test]
fn request_lines_are_strict() {
    for (name, request_line) in [
        ("two blanks after the method", "GET  / HTTP/1.1"),
        ("two blanks before the version", "GET /  HTTP/1.1"),
        ("trailing blank", "GET / HTTP/1.1 "),
        ("tab", "GET\t/ HTTP/1.1"),
        ("space in the target", "GET /a b HTTP/1.1"),
        ("NUL in the target", "GET /\0 HTTP/1.1"),
        ("control in the target", "GET /\x01 HTTP/1.1"),
        ("DEL in the target", "GET /\x7f HTTP/1.1"),
        ("fragment", "GET /a#b HTTP/1.1"),
        ("non-ASCII target", "GET /caf\u{e9} HTTP/1.1"),
        ("HTTP/1.9", "GET / HTTP/1.9"),
        ("HTTP/1.2", "GET / HTTP/1.2"),
        ("HTTP/2.0 as text", "GET / HTTP/2.0"),
        ("HTTP/2 preface", "PRI * HTTP/2.0"),
        ("HTTP/01.1", "GET / HTTP/01.1"),
        ("lower case version", "GET / http/1.1"),
        ("HTTP/0.9", "GET /"),
        ("no target", "GET HTTP/1.1"),
        ("empty target", "GET  HTTP/1.1"),
        ("method not a token", "G@T / HTTP/1.1"),
        ("method with a colon", "GET: / HTTP/1.1"),
        ("asterisk with GET", "GET * HTTP/1.1"),
        ("authority form with GET", "GET a.example:80 HTTP/1.1"),
        ("path without a slash", "GET a/b HTTP/1.1"),
        ("other scheme", "GET ftp://a.example/ HTTP/1.1"),
        ("scheme without slashes", "GET http:a.example HTTP/1.1"),
        ("absolute form without a host", "GET http:///x HTTP/1.1"),
        ("absolute form with userinfo", "GET http://u@a.example/ HTTP/1.1"),
        ("absolute form that differs from Host", "GET http://b.example/ HTTP/1.1"),
        ("absolute form with a port that Host lacks", "GET http://a.example:80/ HTTP/1.1"),
        ("malformed CONNECT", "CONNECT /x HTTP/1.1"),
    ] {
        check_refused(name, &line(request_line), 400);
    }
    check_refused("CONNECT", &line("CONNECT a.example:443 HTTP/1.1"), 405);
}

#[test]
fn host_is_one_valid_authority() {
    check_refused("missing", b"GET / HTTP/1.1\r\n\r\n", 400);
    check_refused("twice", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400);
    check_refused("twice in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", 400);
    check_refused("bad in 1.0", b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", 400);
    for value in [
        "",
        " ",
        "a,b",
        "a, b",
        "u@a",
        "u:p@a",
        "a/b",
        "a b",
        "a?b",
        "a#b",
        "a\\b",
        "a%2eb",
        ":80",
        "a:",
        "a:0",
        "a:99999",
        "a:-1",
        "a:+80",
        "a:8 0",
        "a:80:80",
        "a:http",
        "[::1",
        "[]",
        "[::1]x",
        "[::1]:",
        "[zz]",
        "::1",
        "caf\u{e9}",
    ] {
        check_refused(&format!("host {value:?}"), &host(value), 400);
    }
}

#[test]
fn expectations_other_than_continue_fail() {
    for value in
        ["100-continue, 100-continue", "200-ok", "", "100-continue;x", " 100continue", "x100-continue"]
    {
        check_refused(&format!("expect {value:?}"), &with(&format!("Expect: {value}\r\n")), 417);
    }
    check_refused("twice", &with("Expect: 100-continue\r\nExpect: 100-continue\r\n"), 417);
}

#[test]
fn underscore_names_cannot_impersonate() {
    for name in [
        "Content_Length",
        "transfer_encoding",
        "TRANSFER_ENCODING",
        "X_Forwarded_For",
        "X-Forwarded_Proto",
        "x_forwarded-anything",
        "X_Request_Id",
        "X_Real_IP",
        "Proxy_Authorization",
    ] {
        check_refused(name, &with(&format!("{name}: 1\r\n")), 400);
    }
}

#[test]
fn oversize_is_refused_before_it_is_read_in_full() {
    let long = "a".repeat(17 * 1024);
    check_refused("request line", &line(&format!("GET /{long} HTTP/1.1")), 414);
    check_refused("unfinished request line", format!("GET /{long}").as_bytes(), 414);
    check_refused("one field", &with(&format!("X-A: {long}\r\n")), 431);
    check_refused("unfinished field", format!("GET / HTTP/1.1\r\nX-A: {long}").as_bytes(), 431);
    check_refused("field without a colon", format!("GET / HTTP/1.1\r\n{long}").as_bytes(), 431);
    let many = format!("X-A: {}\r\n", "a".repeat(8 * 1024)).repeat(9);
    check_refused("all fields", &with(&many), 431);
    check_refused("all fields, unfinished", format!("GET / HTTP/1.1\r\n{many}").as_bytes(), 431);
    check_refused("count", &with(&"A: b\r\n".repeat(200)), 431);
    check_framing("greatest count", &with(&"A: b\r\n".repeat(199)), Framing::None);
    check_framing("long target", &line(&format!("GET /{} HTTP/1.1", "a".repeat(8000))), Framing::None);
    check_refused("method", &line(&format!("{} / HTTP/1.1", "A".repeat(33))), 501);
}

#[track_caller]
fn check_upgrade(name: &str, bytes: &[u8], expected: Upgrade) {
    assert_eq!(judge(bytes).unwrap().unwrap().upgrade, expected, "{name}");
}

#[test]
fn only_a_plain_websocket_handshake_may_upgrade() {
    use Upgrade::{Unknown, WebSocket};
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
    let socket = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    check_upgrade("websocket", &get("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"), WebSocket);
    check_upgrade("h2c", &get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"), Unknown);
    check_upgrade("one of two", &get(&format!("{socket}Upgrade: h2c\r\n")), Unknown);
    check_upgrade("twice", &get(&format!("{socket}Upgrade: websocket\r\n")), Unknown);
    check_upgrade("not in Connection", &get("Upgrade: websocket\r\n"), Unknown);
    check_upgrade("without Upgrade", &get("Connection: upgrade\r\n"), Upgrade::None);
    check_upgrade("with a body", &get(&format!("{socket}Content-Length: 3\r\n")), Unknown);
    check_upgrade("with POST", &with(socket), Unknown);
}

#[test]
fn a_client_may_say_anywhere_that_it_closes() {
    for (fields, closes) in [
        ("Connection: close\r\n", true),
        ("Connection: x\r\nConnection: keep-alive, Close\r\n", true),
        ("Connection: keep-alive\r\nConnection: \r\nConnection: close\r\n", true),
        ("Connection: closed\r\nX-Connection: close\r\n", false),
    ] {
        assert_eq!(judge(&with(fields)).unwrap().unwrap().closes, closes, "{fields}");
    }
}

#[test]
fn connection_names_what_may_be_left_out() {
    let connection = |value: &str| with(&format!("Connection: {value}\r\n"));
    for good in ["close", "keep-alive, Authorization", "x-a,,x-b, ", "content-length"] {
        check_framing(good, &connection(good), Framing::None);
    }
    for bad in ["host", "close, Host", "X-Forwarded-For", "x-forwarded-ssl", ":authority", "\"host\"", "x a"]
    {
        check_refused(bad, &connection(bad), 400);
    }
    check_framing("most", &connection(&["x"; CONNECTION_OPTIONS].join(",")), Framing::None);
    check_refused("more", &connection(&["x"; CONNECTION_OPTIONS + 1].join(",")), 400);
    check_refused("more, in two fields", &with(&"Connection: a, b, c, d, e, f\r\n".repeat(2)), 400);
}

#[test]
fn end_is_found_in_any_pieces() {
    let limits = HeadLimits::default();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    for follower in [b"GET /next".as_slice(), b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b""] {
        let both = [head.as_slice(), follower].concat();
        for first in 0..=both.len() {
            let mut search = Search::default();
            let early = search.is_complete(&both[..first], &limits).unwrap();
            assert_eq!(early, first >= head.len(), "split at {first}");
            assert!(early || search.is_complete(&both, &limits).unwrap(), "split at {first}");
        }
        assert_eq!(check(&both, &limits).unwrap().1, head.len());
    }
}

#[track_caller]
fn check_identity(bytes: &[u8], method: Option<&str>, path: Option<&str>) {
    assert_eq!(identify(bytes), (method, path), "{}", bytes.escape_ascii());
}

#[test]
fn only_safe_parts_are_identified() {
    check_identity(b"GET /a/b?secret=1 HTTP/1.1\r\n", Some("GET"), Some("/a/b"));
    check_identity(b"GET /a b HTTP/1.1\r\n", Some("GET"), Some("/a"));
    check_identity(b"GET /unfini", Some("GET"), None);
    check_identity(b"GET /\x1b[31m HTTP/1.1\r\n", Some("GET"), None);
    check_identity(b"GET http://u:p@a/ HTTP/1.1\r\n", Some("GET"), None);
    check_identity(b"G\x01T / HTTP/1.1\r\n", None, None);
    check_identity(b"\x16\x03\x01", None, None);
    check_identity(b"", None, None);
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(5000));
    assert_eq!(identify(long.as_bytes()).1.map(str::len), Some(LOGGED_PATH_LIMIT));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = judge(&bytes);
        let _ = check(&bytes, &HeadLimits::default());
        let _ = identify(&bytes);
    }

    /// Pingora reads whatever passes, and finds the body in the same place.
    #[test]
    fn pingora_agrees_with_what_passes(
        base in 0usize..4,
        edits in proptest::collection::vec((0usize..100, proptest::sample::select(BYTES.to_vec())), 0..3),
    ) {
        let mut head = match base {
            0 => with("Content-Length: 3\r\n"),
            1 => with("Transfer-Encoding: chunked\r\n"),
            2 => line("GET http://a.example/x HTTP/1.1"),
            _ => host("[::1]:80"),
        };
        for (at, byte) in edits {
            head.insert(at % (head.len() - 2), byte);
        }
        if let Ok(Some(judged)) = judge(&head) {
            let mut session = HttpSession::new(Box::new(std::io::Cursor::new(head.clone())));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let read = runtime.block_on(session.read_request());
            proptest::prop_assert!(matches!(read, Ok(Some(length)) if length == head.len()), "{:?}", read);
            proptest::prop_assert_eq!(session.is_body_empty(), judged.framing == Framing::None);
        }
    }
}

/// What tells parsers apart.
const BYTES: &[u8] = b" \t\r\n\0\x0b\x7f\x85:;,_-+0129aXh/[]@%\\#?*";
