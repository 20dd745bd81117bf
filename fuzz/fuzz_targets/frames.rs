//! Whatever comes over HTTP/2 passes the guard unchanged, up to the frame that is one too many; and which one that is does not depend on
//! the pieces in which it comes.
#![no_main]

use std::time::{Duration, Instant};

use fngate::downstream::Frames;
use fngate_fuzz::{now, pieces, runtime, terms};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

// Three sizes of pieces, then what the client sends after its preface.
fuzz_target!(|input: &[u8]| {
    let Some((sizes, frames)) = input.split_at_checked(3) else { return };
    let sent = [PREFACE, frames].concat();
    let is_flood = empty_frames(frames) > LIMIT;
    for sizes in [&[0][..], sizes, &[1]] {
        let Some((passed, refused)) = pass(&pieces(&sent, sizes)) else { return };
        assert_eq!(refused, is_flood, "{sizes:?}");
        match refused {
            true => assert!(sent.starts_with(&passed)),
            false => assert!(sent == passed),
        }
    }
});

/// What gets through, and whether the guard ended it. Nothing when it took so long that the client may have been given more frames.
fn pass(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
    let runtime = runtime();
    let _guard = runtime.enter();
    let (mut client, server) = duplex(1 << 20);
    let began = Instant::now();
    let (terms, refusals) = terms(LIMIT);
    let mut frames = Frames::alone(Box::new(server), terms);
    let mut passed = Vec::new();
    let mut is_refused = false;
    for piece in pieces {
        now(client.write_all(piece)).expect("there is room").unwrap();
        let mut room = vec![0; 64];
        while let Some(read) = now(frames.read(&mut room)) {
            match read {
                Ok(length) => passed.extend_from_slice(&room[..length]),
                Err(_) => {
                    is_refused = true;
                    break;
                }
            }
        }
        if is_refused {
            break;
        }
    }
    let told = refusals.0.lock().unwrap().clone();
    assert_eq!(told, if is_refused { vec!["client_flood"] } else { vec![] });
    (began.elapsed() < REFILL).then_some((passed, is_refused))
}

/// How many frames begin here that carry nothing, told by walking over them as RFC 9113 section 4.1 has them.
fn empty_frames(mut bytes: &[u8]) -> u32 {
    let mut empty = 0;
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (is_data, is_headers, ends) = (head[3] == 0, head[3] == 1, head[4] & 1 == 1);
        empty += u32::from(!(is_headers || is_data && (ends || length > 0)));
        bytes = rest.get(length..).unwrap_or_default();
    }
    empty
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LIMIT: u32 = 4;
/// The next frame comes free after a quarter of a second.
const REFILL: Duration = Duration::from_millis(200);
