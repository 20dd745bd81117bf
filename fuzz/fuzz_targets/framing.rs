//! Where a request ends, nobody disagrees: what the guard lets through, `httparse` (which Pingora reads with) takes, too, with the same
//! length of the head and the same framing; and a chunked body ends where a plain decoder says.
#![no_main]

use fngate::downstream::{Framing, HeadLimits, Scanner, check};
use httparse::{ParserConfig, Request, Status, parse_chunk_size};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The guard is asked once the end of a head has come.
    if !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        return;
    }
    let Ok((head, length)) = check(bytes, &HeadLimits::default()) else { return };
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut request = Request::new(&mut fields);
    let parsed = ParserConfig::default().parse_request(&mut request, bytes);
    assert_eq!(parsed, Ok(Status::Complete(length)));
    let values = |name: &str| -> Vec<&[u8]> {
        request
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
            .collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match head.framing {
        Framing::None => {
            assert!(codings.is_empty());
            assert!(lengths.is_empty() || lengths == [b"0"]);
        }
        Framing::Length(length) => {
            assert!(codings.is_empty());
            assert_eq!(lengths, [length.to_string().as_bytes()]);
        }
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1);
            assert!(codings[0].eq_ignore_ascii_case(b"chunked"));
            body(&bytes[length..]);
        }
    }
});

fn body(bytes: &[u8]) {
    let mut scanner = Scanner::default();
    let Ok(whole) = scanner.feed(bytes) else { return };
    // The pieces in which it comes make no difference.
    let (mut by_bytes, mut used) = (Scanner::default(), 0);
    for byte in bytes.chunks(1) {
        used += by_bytes.feed(byte).expect("it passed as a whole").used;
    }
    assert_eq!(used, whole.used);
    if whole.ended {
        assert_eq!(chunked_end(bytes), Some(whole.used));
    }
}

/// Where the trailers' empty line ends.
fn chunked_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let Ok(Status::Complete((line, size))) = parse_chunk_size(&bytes[at..]) else { return None };
        at += line;
        if size == 0 {
            break;
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
        (bytes.get(at - 2..at)? == b"\r\n").then_some(())?;
    }
    let mut trailers = [httparse::EMPTY_HEADER; 512];
    match httparse::parse_headers(&bytes[at..], &mut trailers) {
        Ok(Status::Complete((length, _))) => Some(at + length),
        _ => None,
    }
}
