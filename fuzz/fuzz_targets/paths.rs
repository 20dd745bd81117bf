//! What `check_path` accepts never leaves its base, however a server behind the gateway may read it.
//!
//! The resolver below shares no code with the gateway's: it decodes a path none, one or two times, takes `/` and `\` as
//! separators, cuts parameters at `;`, and follows the dots as a file system would.
#![no_main]

use fngate::uri::{check_path, push_suffix};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|suffix: &str| {
    if check_path(suffix).is_err() {
        return;
    }
    let mut target = "/base/fn".to_owned();
    push_suffix(suffix, &mut target);
    let below = target.strip_prefix("/base/fn/").expect("the join keeps the base");
    let mut reading = below.as_bytes().to_vec();
    for _ in 0..3 {
        assert!(stays_inside(&reading), "{suffix:?}");
        assert!(!reading.iter().any(|byte| *byte < 0x20 || *byte == 0x7f), "{suffix:?}");
        reading = decoded(&reading);
    }
});

/// Whether following the path never leads above where it starts.
fn stays_inside(path: &[u8]) -> bool {
    let mut depth = 0_i64;
    let mut name = Vec::new();
    for byte in path.iter().copied().chain([b'/']) {
        if byte != b'/' && byte != b'\\' {
            name.push(byte);
            continue;
        }
        let segment = std::mem::take(&mut name);
        let end = segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
        match &segment[..end] {
            b".." => depth -= 1,
            b"." | b"" => {}
            _ => depth += 1,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

fn decoded(bytes: &[u8]) -> Vec<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}
