//! Whatever a function says in an envelope is an answer that can be sent, or a fault; and what a stream says does not depend on the
//! pieces in which it comes.
#![no_main]

use bytes::Bytes;
use fngate::platforms::aws_lambda::payload::{Form, Payload};
use fngate::platforms::aws_lambda::stream::Decoder;
use fngate::platforms::envelope::is_bodiless;
use fngate::platforms::openwhisk::answer::{self, Asked};
use fngate::platforms::template::Route;
use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use pingora_http::ResponseHeader;

// The first byte chooses who speaks, and the second where a stream is cut.
fuzz_target!(|input: &[u8]| {
    let [choice, cut, said @ ..] = input else { return };
    let form = [Form::Raw, Form::ApigwV1, Form::ApigwV2, Form::Alb][usize::from(choice / 4 % 4)];
    match choice % 4 {
        0 => openwhisk(*choice, said),
        1 => {
            let payload = Payload::new(form, Route { parameters: &[], has_suffix: false });
            if let Ok(returned) = payload.answer(Bytes::copy_from_slice(said)) {
                sendable(&returned.head().expect("an answer has a head"), &returned.answer.body);
            }
        }
        2 => stream(form, *cut, said.to_vec()),
        // Well-formed messages reach what bare bytes hardly ever do: the checksums would have to be guessed.
        _ => stream(form, *cut, messages(said)),
    }
});

fn openwhisk(choice: u8, said: &[u8]) {
    let status = [200, 202, 400, 404, 500, 502, 503, 204][usize::from(choice / 4 % 8)];
    let asked = if choice < 128 { Asked::Result } else { Asked::Record };
    let status = StatusCode::from_u16(status).unwrap();
    if let Ok(answer) = answer::read(status, Bytes::copy_from_slice(said), asked) {
        sendable(&answer.head().expect("an answer has a head"), &answer.body);
    }
}

fn sendable(head: &ResponseHeader, body: &[u8]) {
    assert!((200..=599).contains(&head.status.as_u16()));
    assert!(body.is_empty() || !is_bodiless(head.status));
    for name in
        ["connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"]
    {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    for value in head.headers.values() {
        assert!(!value.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
    }
}

fn stream(form: Form, cut: u8, bytes: Vec<u8>) {
    let cut = usize::from(cut).min(bytes.len());
    let whole = decoded(form, &[&bytes]);
    let pieces = decoded(form, &[&bytes[..cut], &bytes[cut..]]);
    match (whole, pieces) {
        (Some((head, body)), Some((same_head, same_body))) => {
            assert_eq!((head.status, &head.headers), (same_head.status, &same_head.headers));
            assert_eq!(body, same_body);
        }
        (whole, pieces) => assert_eq!(whole.is_some(), pieces.is_some()),
    }
}

fn decoded(form: Form, pieces: &[&[u8]]) -> Option<(ResponseHeader, Vec<u8>)> {
    let mut head = ResponseHeader::build(200, None).unwrap();
    let mut decoder = Decoder::new(form, &head);
    let mut body = Vec::new();
    for piece in pieces {
        body.extend_from_slice(&decoder.push(piece, &mut head).ok()?.unwrap_or_default());
    }
    body.extend_from_slice(&decoder.finish().ok()?);
    Some((head, body))
}

/// Each line as the payload of one message, and the message that ends a stream.
fn messages(said: &[u8]) -> Vec<u8> {
    let payloads = said.split(|b| *b == b'\n').map(|line| message("PayloadChunk", line));
    payloads.chain([message("InvokeComplete", b"{}")]).flatten().collect()
}

/// AWS's framing: length of all, length of the fields, their checksum, fields, payload, checksum of all.
fn message(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, value) in [(":message-type", "event"), (":event-type", kind)] {
        fields.push(name.len() as u8);
        fields.extend_from_slice(name.as_bytes());
        // The type of a string.
        fields.push(7);
        fields.extend_from_slice(&(value.len() as u16).to_be_bytes());
        fields.extend_from_slice(value.as_bytes());
    }
    let mut message = Vec::new();
    message.extend_from_slice(&((fields.len() + payload.len() + 16) as u32).to_be_bytes());
    message.extend_from_slice(&(fields.len() as u32).to_be_bytes());
    message.extend_from_slice(&checksum(&message).to_be_bytes());
    message.extend_from_slice(&fields);
    message.extend_from_slice(payload);
    message.extend_from_slice(&checksum(&message).to_be_bytes());
    message
}

/// CRC-32 as in Ethernet, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(sum & 1)))
    })
}
