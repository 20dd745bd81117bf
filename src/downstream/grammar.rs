//! The smallest pieces of HTTP/1 grammar, which heads and chunked bodies share.
//!
//! Owns which byte may stand where. Each question is one look into a table; nothing here knows a field or a state.

use super::{Cause, Refusal};

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

/// The same for the bytes of a token, and whether a `_` is among them.
pub(super) fn token_span(bytes: &[u8]) -> (usize, bool) {
    let mut all = 0;
    let end = bytes.iter().position(|&byte| {
        let classes = CLASSES[usize::from(byte)];
        all |= classes;
        classes & TOKEN == 0
    });
    // What ends a token is none, so it is no `_` either.
    (end.unwrap_or(bytes.len()), all & UNDERSCORE != 0)
}

/// The same for bytes of field values, which are the most of a head: eight at a time.
pub(super) fn value_span(bytes: &[u8]) -> usize {
    let mut plain = 0;
    while let Some(block) = bytes[plain..].first_chunk() {
        let control = first_control(u64::from_le_bytes(*block));
        plain += control;
        // A tab is a control character, but one that a value may hold.
        match bytes.get(plain) {
            _ if control == 8 => {}
            Some(b'\t') => plain += 1,
            _ => return plain,
        }
    }
    plain + span(&bytes[plain..], VALUE)
}

/// The place of the first of eight bytes, the lowest being the first, that is a control character; 8 if there is none.
fn first_control(bytes: u64) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    // A lane borrows from the next one only after it was itself found, so the first find is right, and no other one is looked at.
    let low = bytes.wrapping_sub(u64::from(b' ') * ONES) & !bytes;
    let delete = bytes ^ (0x7f * ONES);
    let delete = delete.wrapping_sub(ONES) & !delete;
    ((low | delete) & TOPS).trailing_zeros() as usize / 8
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
    Refusal { status: 400, cause: Cause::BadRequest, reason }
}

pub(super) const BARE_LF: Refusal = bad("a line ends with LF instead of CRLF");
pub(super) const BARE_CR: Refusal = bad("there is a CR without LF");
/// Bytes of methods, field names and chunk extension names: `token` of RFC 9110 section 5.6.2.
pub(super) const TOKEN: u8 = 1;
/// Bytes of a field value: visible ASCII, blank, tab and the opaque bytes from 0x80.
pub(super) const VALUE: u8 = 2;
/// Bytes of a request target: visible ASCII, less what starts a fragment. A `\` is for the path rules to refuse, by its own name.
pub(super) const TARGET: u8 = 4;
/// Bytes of a host name.
const HOST: u8 = 8;
/// The one byte of a token that some readers take for a `-`.
const UNDERSCORE: u8 = 16;

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
        if byte == b'_' {
            class |= UNDERSCORE;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_where_a_look_at_each_byte_says() {
        for length in 0..20 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    for around in [b'a', b'\t', 0x80, 0xff] {
                        let mut bytes = vec![around; length];
                        bytes[place] = byte;
                        assert_eq!(value_span(&bytes), span(&bytes, VALUE), "{}", bytes.escape_ascii());
                    }
                }
            }
        }
    }
}
