//! Streams as Lambda writes them, cut into pieces of any size.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use proptest::prelude::*;

use super::*;

fn message(kind: &'static str, name: &'static str, payload: &[u8]) -> Vec<u8> {
    let text = |text: &'static str| HeaderValue::String(text.into());
    let label = if kind == "event" { ":event-type" } else { ":exception-type" };
    let message = Message::new(Bytes::copy_from_slice(payload))
        .add_header(Header::new(":message-type", text(kind)))
        .add_header(Header::new(label, text(name)))
        .add_header(Header::new(":content-type", text("application/octet-stream")));
    let mut out = Vec::new();
    write_message_to(&message, &mut out).unwrap();
    out
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    message("event", "PayloadChunk", payload)
}

fn end(payload: &str) -> Vec<u8> {
    message("event", "InvokeComplete", payload.as_bytes())
}

fn stream_head(kind: &str) -> ResponseHeader {
    let mut resp = ResponseHeader::build(200, None).unwrap();
    resp.insert_header(CONTENT_TYPE, kind).unwrap();
    resp.insert_header("x-amzn-requestid", "call-1").unwrap();
    resp
}

const FRAMES: &str = "application/vnd.amazon.eventstream";

/// Head and body that the pieces give.
fn decode(form: Form, pieces: &[&[u8]]) -> Result<(ResponseHeader, Vec<u8>), GatewayError> {
    let mut resp = stream_head(FRAMES);
    let mut decoder = Decoder::new(form, &resp);
    let mut body = Vec::new();
    for piece in pieces {
        if let Some(bytes) = decoder.push(piece, &mut resp)? {
            body.extend_from_slice(&bytes);
        }
    }
    body.extend_from_slice(&decoder.finish()?);
    Ok((resp, body))
}

fn body(form: Form, pieces: &[&[u8]]) -> Result<String, GatewayError> {
    decode(form, pieces).map(|(_, body)| String::from_utf8(body).unwrap())
}

const HEAD: &str = r#"{"statusCode":201,"headers":{"Content-Type":"text/html"},"cookies":["a=1","b=2"]}"#;

fn with_head(body: &str) -> Vec<u8> {
    [HEAD.as_bytes(), &[0; 8], body.as_bytes()].concat()
}

#[test]
fn payloads_follow_each_other() {
    let pieces = [&chunk(b"Hello, ")[..], &chunk(b"world!"), &end("{}")];
    for form in [Form::Raw, Form::ApigwV1, Form::ApigwV2, Form::Alb] {
        assert_eq!(body(form, &pieces).unwrap(), "Hello, world!", "{form:?}");
    }
    assert_eq!(body(Form::Raw, &[&end("")]).unwrap(), "");
}

#[test]
fn a_payload_is_there_as_soon_as_its_message_is() {
    let mut resp = stream_head(FRAMES);
    let mut decoder = Decoder::new(Form::Raw, &resp);
    assert_eq!(decoder.push(&chunk(b"one"), &mut resp).unwrap().unwrap(), "one");
    let two = chunk(b"two");
    assert_eq!(decoder.push(&two[..20], &mut resp), Ok(None));
    assert_eq!(decoder.push(&two[20..], &mut resp).unwrap().unwrap(), "two");
}

#[test]
fn a_function_says_its_head_first() {
    for form in [Form::ApigwV1, Form::ApigwV2, Form::Alb] {
        let (resp, body) = decode(form, &[&chunk(&with_head("<p>")), &end("{}")]).unwrap();
        assert_eq!((resp.status.as_u16(), body.as_slice()), (201, &b"<p>"[..]));
        assert_eq!(resp.headers["content-type"], "text/html");
        assert_eq!(resp.headers["x-amzn-requestid"], "call-1");
        let cookies: Vec<_> = resp.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
    }
}

#[test]
fn the_head_is_known_before_the_first_byte_of_the_body() {
    let mut resp = stream_head(FRAMES);
    let mut decoder = Decoder::new(Form::ApigwV2, &resp);
    assert_eq!(decoder.push(&chunk(HEAD.as_bytes()), &mut resp), Ok(None));
    assert_eq!(decoder.push(&chunk(&[0; 5]), &mut resp), Ok(None));
    assert_eq!(decoder.push(&chunk(&[0; 3]), &mut resp), Ok(Some(Bytes::new())));
    assert_eq!(resp.status.as_u16(), 201);
}

#[test]
fn raw_payloads_have_a_head_when_the_stream_announces_it() {
    let announced = stream_head("application/vnd.awslambda.http-integration-response");
    for (head, status, expected) in [(announced, 201, "x"), (stream_head(FRAMES), 200, "{")] {
        let mut resp = head;
        let mut decoder = Decoder::new(Form::Raw, &resp);
        let out = decoder.push(&chunk(&with_head("x")), &mut resp).unwrap().unwrap();
        assert_eq!(resp.status.as_u16(), status);
        assert!(out.starts_with(expected.as_bytes()));
    }
}

#[test]
fn what_only_begins_like_a_head_is_a_body() {
    let json = r#"{"statusCode":404}"#;
    assert_eq!(body(Form::ApigwV2, &[&chunk(json.as_bytes()), &end("{}")]).unwrap(), json);
    let long = format!("{{{}", "x".repeat(LONGEST_HEAD));
    let mut resp = stream_head(FRAMES);
    let mut decoder = Decoder::new(Form::ApigwV2, &resp);
    assert_eq!(decoder.push(&chunk(long.as_bytes()), &mut resp).unwrap().unwrap(), long.as_bytes());
}

#[test]
fn a_head_without_a_body_has_none() {
    let said = [br#"{"statusCode":204}"#, &[0; 8][..], b"not for clients"].concat();
    let (resp, body) = decode(Form::ApigwV2, &[&chunk(&said), &chunk(b"nor this"), &end("{}")]).unwrap();
    assert_eq!((resp.status.as_u16(), body.len()), (204, 0));
}

#[test]
fn a_head_that_is_none_is_a_fault() {
    for head in ["{", "{}", r#"{"statusCode":7}"#, r#"{"statusCode":200,"headers":5}"#] {
        let said = [head.as_bytes(), &[0; 8], b"x"].concat();
        let error = body(Form::ApigwV2, &[&chunk(&said), &end("{}")]).unwrap_err();
        assert_eq!(error.code(), "bad_envelope", "{head}");
    }
}

#[test]
fn the_end_says_that_the_function_failed() {
    let failed = r#"{"ErrorCode":"Unhandled","ErrorDetails":"{\"errorMessage\":\"secret\"}"}"#;
    assert_eq!(body(Form::Raw, &[&chunk(b"x"), &end(failed)]), Err(GatewayError::FunctionError));
    assert_eq!(body(Form::Raw, &[&end(failed)]), Err(GatewayError::FunctionError));
    assert!(body(Form::Raw, &[&end(r#"{"LogResult":"x"}"#)]).is_ok());
}

#[test]
fn a_stream_without_its_end_is_broken_off() {
    for pieces in [&[][..], &[&chunk(b"x")[..]], &[&chunk(b"x")[..], &end("{}")[..10]]] {
        assert_eq!(body(Form::Raw, pieces), Err(GatewayError::UpstreamReset));
    }
    let exception = message("exception", "ServiceException", br#"{"Message":"arn:aws:lambda"}"#);
    assert_eq!(body(Form::Raw, &[&exception]).unwrap_err().code(), "platform_error");
}

#[test]
fn what_is_no_stream_is_refused() {
    let mut damaged = chunk(b"x");
    *damaged.last_mut().unwrap() ^= 1;
    let after_the_end = [end("{}"), chunk(b"x")].concat();
    for bytes in [
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        vec![0; 16],
        vec![0xff; 16],
        damaged,
        after_the_end,
        end("nonsense"),
    ] {
        assert_eq!(body(Form::Raw, &[&bytes]).unwrap_err().code(), "bad_envelope", "{bytes:?}");
    }
}

#[test]
fn messages_of_other_kinds_are_passed_over() {
    let pieces = [&message("event", "Heartbeat", b"x")[..], &chunk(b"y"), &end("{}")];
    assert_eq!(body(Form::Raw, &pieces).unwrap(), "y");
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(payloads in proptest::collection::vec("\\PC{0,40}", 0..5), cut in 1..64_usize, said in any::<bool>()) {
        let mut bytes = Vec::new();
        if said {
            bytes.extend(chunk(&with_head("")));
        }
        payloads.iter().for_each(|payload| bytes.extend(chunk(payload.as_bytes())));
        bytes.extend(end("{}"));
        let pieces: Vec<_> = bytes.chunks(cut).collect();
        let (resp, body) = decode(Form::ApigwV2, &pieces).unwrap();
        prop_assert_eq!(resp.status.as_u16(), if said { 201 } else { 200 });
        prop_assert_eq!(String::from_utf8(body).unwrap(), payloads.concat());
    }

    #[test]
    fn bytes_from_the_network_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..80_usize) {
        let _ = body(Form::ApigwV2, &[&bytes]);
        let mut stream = [chunk(&with_head("x")), end("{}")].concat();
        for (offset, byte) in bytes.iter().take(8).enumerate() {
            if let Some(place) = stream.get_mut(at + offset) {
                *place = *byte;
            }
        }
        let _ = decode(Form::ApigwV2, &[&stream]);
    }
}
