//! Paths and queries as bytes on the wire: joining them, and refusing what could climb out of a function's own space.
//!
//! Nothing here rewrites what a client sent: a path is passed on as it came, or it is refused.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// The path holds something that some server behind us may read as another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPath;

/// Refuses a path (or the rest of one) that could leave its function.
///
/// It is percent-decoded up to twice, with `/` and `\` as separators. A segment that is then `.` or `..` (also before a `;`), a NUL,
/// a control character, a raw `\` or a broken escape is refused.
pub fn check_path(path: &str) -> Result<(), BadPath> {
    let raw = path.as_bytes();
    if raw.iter().any(|b| *b == b'\\' || *b < 0x20 || *b == 0x7f) {
        return Err(BadPath);
    }
    // The common path has no escape and no dot segment: one look over the bytes is enough.
    if !raw.contains(&b'%') {
        return check_segments(raw);
    }
    let once = decode(raw, Escapes::MustBeWhole)?;
    check_decoded(&once)?;
    if once.contains(&b'%') {
        // What came out of the first round need not be an escape again: `100%25` is a plain `100%`.
        check_decoded(&decode(&once, Escapes::MayBeLiteral)?)?;
    }
    Ok(())
}

/// Joins with exactly one `/`. `path` starts with `/`; `suffix` is what follows the matched prefix, without its leading `/`.
pub fn push_suffix(suffix: &str, path: &mut String) {
    if !path.ends_with('/') {
        path.push('/');
    }
    path.push_str(suffix);
}

/// Appends the queries: the target's own first, then the client's as sent. No bare `?` when both are missing.
pub fn push_query(own: Option<&str>, client: Option<&str>, out: &mut String) {
    let mut separator = '?';
    for query in [own, client].into_iter().flatten().filter(|q| !q.is_empty()) {
        out.push(separator);
        out.push_str(query);
        separator = '&';
    }
}

/// Percent-encodes a name so that it stays one segment.
pub fn encode_segment(name: &str) -> String {
    /// RFC 3986 `unreserved`; everything else is escaped.
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// Decodes a name or value of a query or form; `None` when an escape is broken or is not UTF-8.
pub fn decode_component(component: &str) -> Option<String> {
    let escapes_are_whole = component.split('%').skip(1).all(|rest| {
        matches!(rest.as_bytes(), [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
    });
    let spaced = component.replace('+', " ");
    let text = percent_decode(spaced.as_bytes()).decode_utf8().ok()?;
    escapes_are_whole.then(|| text.into_owned())
}

#[derive(Clone, Copy)]
enum Escapes {
    MustBeWhole,
    MayBeLiteral,
}

fn decode(bytes: &[u8], escapes: Escapes) -> Result<Vec<u8>, BadPath> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| tail.split_at_checked(2))
            .flatten()
            .and_then(|(hex, tail)| Some((hex_digit(hex[0])? << 4 | hex_digit(hex[1])?, tail)));
        match (escaped, escapes) {
            (Some((byte, tail)), _) => {
                out.push(byte);
                rest = tail;
            }
            (None, Escapes::MustBeWhole) if *first == b'%' => return Err(BadPath),
            (None, _) => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    Ok(out)
}

fn check_decoded(bytes: &[u8]) -> Result<(), BadPath> {
    if bytes.iter().any(|b| *b < 0x20 || *b == 0x7f) {
        return Err(BadPath);
    }
    check_segments(bytes)
}

fn check_segments(bytes: &[u8]) -> Result<(), BadPath> {
    let is_dots = |segment: &[u8]| {
        let name = segment.split(|b| *b == b';').next().unwrap_or(segment);
        name == b"." || name == b".."
    };
    if bytes.split(|b| *b == b'/' || *b == b'\\').any(is_dots) { Err(BadPath) } else { Ok(()) }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Result<(), BadPath>) {
        assert_eq!(check_path(path), expected, "{path:?}");
    }

    #[test]
    fn what_is_harmless_passes() {
        for path in [
            "",
            "/",
            "/a/b",
            "//",
            "/a//b/",
            "/a%20b",
            "/a%2Fb",
            "/a%3Fb",
            "/a%23b",
            "/100%25",
            "/caf%C3%A9",
            "/...",
            "/.a",
            "/a.",
            "/..a",
            "/a;b=c",
            "/a%25zz",
            "/%25",
            "/a/.hidden/..b",
            "/x%5Cy",
            "/%E2%80%A6",
        ] {
            check(path, Ok(()));
        }
    }

    #[test]
    fn what_climbs_is_refused_in_every_spelling() {
        for path in [
            "..",
            ".",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/%2E./b",
            "/.%2e/b",
            "/a/%2e",
            "/..;/b",
            "/..;x=y/b",
            "/.;/b",
            "/a%2f..%2fb",
            "/a%2F%2e%2e",
            "/%252e%252e/",
            "/a%252f..%252fb",
            "/..%5c",
            "/%5c..%5c",
            "/%255c..%255c",
            "/..%3bx/",
            "/a%5c..",
        ] {
            check(path, Err(BadPath));
        }
    }

    #[test]
    fn controls_backslashes_and_broken_escapes_are_refused() {
        for path in [
            "/a\\b",
            "/a%00b",
            "/a%0d%0aX:%201",
            "/a%1f",
            "/a%7f",
            "/a%2500",
            "/a%250d",
            "/%",
            "/a%2",
            "/a%zz",
            "/a%2g",
            "/a\u{1}b",
            "/a\tb",
        ] {
            check(path, Err(BadPath));
        }
    }

    #[track_caller]
    fn joined(base: &str, suffix: &str, expected: &str) {
        let mut out = String::from(base);
        push_suffix(suffix, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn the_join_has_exactly_one_slash() {
        joined("/fn", "a/b", "/fn/a/b");
        joined("/fn/", "a", "/fn/a");
        joined("/", "a%2Fb", "/a%2Fb");
        joined("/fn", "", "/fn/");
        joined("/fn", "/a", "/fn//a");
    }

    #[test]
    fn queries_follow_each_other() {
        let query = |own, client| {
            let mut out = String::from("/x");
            push_query(own, client, &mut out);
            out
        };
        assert_eq!(query(None, None), "/x");
        assert_eq!(query(Some("code=k"), None), "/x?code=k");
        assert_eq!(query(Some("code=k"), Some("b=2&a=1&a")), "/x?code=k&b=2&a=1&a");
        assert_eq!(query(None, Some("")), "/x");
    }

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(encode_segment("my action@1/x"), "my%20action%401%2Fx");
    }
}
