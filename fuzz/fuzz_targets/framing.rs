//! Where a request ends, nobody disagrees: what the guard lets through, `httparse` (which Pingora reads with) takes, too, with the same
//! length of the head and the same framing; and a chunked body ends where a plain decoder says. What passes a whole connection does not
//! depend on the pieces in which it comes.
#![no_main]

use fngate::downstream::{Framing, HeadLimits, Scanner, Wire, check};
use fngate_fuzz::{now, pieces, runtime, terms};
use httparse::{ParserConfig, Request, Status, parse_chunk_size};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;

fuzz_target!(|bytes: &[u8]| {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    let whole = connection(&pieces(bytes, &[0]), 1 << 16);
    for (sizes, room) in [(&[1][..], 1 << 16), (&[length / 3 + 1, 2], 7), (&[length / 2 + 1], 64)] {
        let cut = connection(&pieces(bytes, sizes), room);
        assert_eq!(cut.is_refused, whole.is_refused, "{sizes:?}");
        // What is wrong in a body may show before all of the good part of it has passed.
        let (short, long) =
            if cut.passed.len() < whole.passed.len() { (&cut, &whole) } else { (&whole, &cut) };
        assert!(long.passed.starts_with(&short.passed), "{sizes:?}");
        assert!(whole.is_refused || cut.passed.len() == whole.passed.len(), "{sizes:?}");
    }
    head(bytes);
});

/// What became of a connection's bytes.
struct Passed {
    passed: Vec<u8>,
    is_refused: bool,
}

/// All that a server gets to see that answers each request at once.
fn connection(pieces: &[&[u8]], room: usize) -> Passed {
    let runtime = runtime();
    let _guard = runtime.enter();
    let (mut client, server) = duplex(1 << 20);
    let (terms, _) = terms(1);
    let mut wire = Wire::alone(Box::new(server), terms);
    let (mut passed, mut room) = (Vec::new(), vec![0; room]);
    for piece in pieces {
        now(client.write_all(piece)).expect("there is room").unwrap();
        let mut is_answered = false;
        loop {
            match now(wire.read(&mut room)) {
                // Whether it waits for more of the request or for the answer, the answer does no harm: it ends what has ended.
                None if is_answered => break,
                None => {
                    wire.request_done(Instant::now().into_std());
                    is_answered = true;
                }
                Some(Ok(length)) if length > 0 => {
                    passed.extend_from_slice(&room[..length]);
                    is_answered = false;
                }
                Some(_) => return Passed { passed, is_refused: wire.refusal().is_some() },
            }
        }
    }
    Passed { passed, is_refused: false }
}

fn head(bytes: &[u8]) {
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
}

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
