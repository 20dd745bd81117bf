//! The smallest pieces of HTTP/1 grammar, which heads and chunked bodies share.
//!
//! Owns which byte may stand where. Each question is one look into a table; nothing here knows a field or a state.

use super::Refusal;

/// `host`, `host:port` or `[v6]:port`. Userinfo, lists, escapes and paths are no authority of ours.
pub fn authority_is_valid(authority: &[u8]) -> bool {
    let (host, port) = match authority {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let literal = as_str(&rest[..end]).and_then(|text| text.parse::<std::net::Ipv6Addr>().ok());
            if literal.is_none() {
                return false;
            }
            (&authority[..end + 2], &rest[end + 1..])
        }
        _ => authority.split_at(authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len())),
    };
    let host_is_valid = host.first() == Some(&b'[') || (!host.is_empty() && all(host, HOST));
    host_is_valid
        && match port {
            [] => true,
            [b':', digits @ ..] => {
                digits.iter().all(u8::is_ascii_digit)
                    && as_str(digits).and_then(|text| text.parse::<u16>().ok()).is_some_and(|port| port != 0)
            }
            _ => false,
        }
}

pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// How many bytes from the start are of `class`.
pub(super) fn span(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|&byte| !is(byte, class)).unwrap_or(bytes.len())
}

/// The same for bytes of field values, which are the most of a head: sixteen at a time, in a form the compiler turns into vectors.
pub(super) fn value_span(bytes: &[u8]) -> usize {
    let odd = |byte: u8| (byte < b' ' && byte != b'\t') | (byte == 0x7f);
    let blocks =
        bytes.chunks_exact(16).take_while(|block| !block.iter().fold(false, |any, &byte| any | odd(byte)));
    let plain = blocks.count() * 16;
    plain + span(&bytes[plain..], VALUE)
}

pub(super) fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| is(byte, class))
}

pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

pub(super) fn as_str(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

pub(super) const fn bad(reason: &'static str) -> Refusal {
    Refusal { status: 400, code: "bad_request", reason }
}

pub(super) const BARE_LF: Refusal = bad("A line ends with LF instead of CRLF.");
pub(super) const BARE_CR: Refusal = bad("There is a CR without LF.");
/// Bytes of methods, field names and chunk extension names: `token` of RFC 9110 section 5.6.2.
pub(super) const TOKEN: u8 = 1;
/// Bytes of a field value: visible ASCII, blank, tab and the opaque bytes from 0x80.
pub(super) const VALUE: u8 = 2;
/// Bytes of a request target: visible ASCII, less what starts a fragment. A `\` is for the path rules to refuse, by its own name.
pub(super) const TARGET: u8 = 4;
/// Bytes of a host name.
const HOST: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        let mut class = 0;
        if alphanumeric
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            class |= TOKEN;
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= VALUE;
        }
        if byte > b' ' && byte < 0x7f && byte != b'#' {
            class |= TARGET;
        }
        if alphanumeric || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            class |= HOST;
        }
        classes[index] = class;
        index += 1;
    }
    classes
};
