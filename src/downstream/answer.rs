//! The answers that are given before there is a proxy to give them.
//!
//! Owns their bytes and the request id in them. Nothing of what the client sent ever gets into one.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use bytes::{BufMut, BytesMut};
use pingora_core::protocols::http::date;

use super::Refusal;

/// Appends the whole answer to `out`. An answer to HEAD ends with its head.
pub(super) fn write(out: &mut BytesMut, refusal: &Refusal, id: &RequestId, method: Option<&str>) {
    let Refusal { status, cause, reason } = refusal;
    let (id, code) = (id.as_str(), cause.code());
    let body =
        format!(r#"{{"error":{{"code":"{code}","message":"{reason}","route":null,"request_id":"{id}"}}}}"#);
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\
         X-Request-Id: {id}\r\nCache-Control: no-store\r\nDate: ",
        phrase = phrase(*status),
        length = body.len(),
        more = match *status {
            // Of CONNECT: there is nothing that what it asks for would allow.
            405 => "Allow: \r\n",
            503 => "Retry-After: 1\r\n",
            _ => "",
        },
    );
    out.put_slice(head.as_bytes());
    out.put_slice(date::get_cached_date().as_bytes());
    out.put_slice(b"\r\n\r\n");
    if method != Some("HEAD") {
        out.put_slice(body.as_bytes());
    }
}

fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

/// What one request is called in its answer, in the log and towards the function: 32 hexadecimal digits.
///
/// Unique for all practical purposes and cheap to make; it is a name, never a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// A new one.
    pub fn random() -> Self {
        thread_local! {
            // The standard library draws these keys from the system's randomness, once per thread.
            static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0u8));
        }
        let mut text = [0; 32];
        for half in text.chunks_exact_mut(16) {
            let bits = STATE.with(|state| {
                state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
                split_mix(state.get())
            });
            let (low, high) = half.split_at_mut(8);
            low.copy_from_slice(&hexadecimal(bits as u32));
            high.copy_from_slice(&hexadecimal((bits >> 32) as u32));
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The eight digits of a number, lowest first, made all at once: each lane of eight bits gets four of them, and then its letter.
fn hexadecimal(number: u32) -> [u8; 8] {
    let mut lanes = u64::from(number);
    lanes = (lanes | lanes << 16) & 0x0000_ffff_0000_ffff;
    lanes = (lanes | lanes << 8) & 0x00ff_00ff_00ff_00ff;
    lanes = (lanes | lanes << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let beyond_nine = (lanes + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (lanes + 0x3030_3030_3030_3030 + beyond_nine * u64::from(b'a' - b'0' - 10)).to_le_bytes()
}

/// The finalizer of SplitMix64: spreads a counter over all 64 bits, one to one.
fn split_mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::downstream::Cause;

    const REFUSAL: Refusal =
        Refusal { status: 503, cause: Cause::Overloaded, reason: "there are too many connections" };

    fn written(method: Option<&str>) -> String {
        let mut out = BytesMut::new();
        write(&mut out, &REFUSAL, &RequestId::random(), method);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn answer_is_framed_and_says_why() {
        let answer = written(Some("GET"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        for field in [
            "Content-Type: application/json",
            "Retry-After: 1",
            "Connection: close",
            "Cache-Control: no-store",
            &format!("Content-Length: {}", body.len()),
        ] {
            assert!(head.split("\r\n").any(|line| line == field), "{field} is not in {head}");
        }
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let id = body["error"]["request_id"].as_str().unwrap();
        assert!(head.contains(&format!("X-Request-Id: {id}\r\n")), "{head}");
        assert_eq!(body["error"]["code"], "overloaded");
        assert_eq!(body["error"]["message"], "there are too many connections");
        assert_eq!(body["error"]["route"], serde_json::Value::Null);
    }

    #[test]
    fn a_refused_method_names_those_allowed() {
        let mut out = BytesMut::new();
        write(&mut out, &Refusal { status: 405, ..REFUSAL }, &RequestId::random(), None);
        let answer = String::from_utf8(out.to_vec()).unwrap();
        assert!(answer.contains("\r\nAllow: \r\n") && !answer.contains("Retry-After"), "{answer}");
    }

    #[test]
    fn answer_to_head_has_no_body() {
        assert!(written(Some("HEAD")).ends_with("\r\n\r\n"));
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, 0x0123_4567, 0x89ab_cdef, 0x9a9a_a9a9, u32::MAX] {
            let reversed: String = format!("{number:08x}").chars().rev().collect();
            assert_eq!(hexadecimal(number), reversed.as_bytes());
        }
    }

    #[test]
    fn request_ids_are_hexadecimal_and_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| RequestId::random()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(
            ids.iter().all(|id| id.as_str().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        );
    }
}
