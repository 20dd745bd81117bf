//! `Decoder`: from the event stream of InvokeWithResponseStream to the client's answer, as it arrives.
//!
//! ```text
//! HTTP/1.1 200 OK                                        HTTP/1.1 201 Created
//! Content-Type: application/vnd.amazon.eventstream   →   Content-Type: text/plain
//!
//! [PayloadChunk {"statusCode":201,"headers":…} 8×NUL]
//! [PayloadChunk Hello, ]                                 Hello,
//! [PayloadChunk world!]                                  world!
//! [InvokeComplete {}]
//! ```
//!
//! A function that answers in HTTP says status and fields first, in JSON, and ends that with eight NUL bytes. In the forms of `payload`
//! that have a head this is looked for; what begins otherwise is a body. With `raw` it is expected only when the stream's content type
//! announces it, so that no byte of JSON that is streamed waits for another one.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_eventstream::smithy::parse_response_headers;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use pingora::http::ResponseHeader;
use serde::Deserialize;

use super::keep_call_id;
use super::payload::Form;
use super::payload::returned::{Members, Returned, read_head};
use crate::error::GatewayError;
use crate::platforms::envelope::{Answer, is_bodiless};

/// Takes the stream's bytes in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    /// What of the stream is no whole message yet.
    buffer: BytesMut,
    payload: Payload,
    is_complete: bool,
}

/// What the function's next byte is.
#[derive(Debug)]
enum Payload {
    /// Perhaps the head's; this is what has come of it.
    Head(BytesMut),
    Body,
    /// A body where there must be none.
    Nothing,
}

/// What one message of the stream says.
enum Said {
    Payload(Bytes),
    Complete,
    /// Of a kind that is not known; new ones may be added.
    Other,
}

impl Decoder {
    /// `resp` is the head of the stream itself.
    pub fn new(form: Form, resp: &ResponseHeader) -> Self {
        let is_announced = resp.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == INTEGRATION);
        let payload = match form {
            Form::Raw if !is_announced => Payload::Body,
            Form::Raw | Form::ApigwV1 | Form::ApigwV2 | Form::Alb => Payload::Head(BytesMut::new()),
        };
        Decoder { buffer: BytesMut::new(), payload, is_complete: false }
    }

    /// What these bytes of the stream give the client; empty when that is the head alone, nothing while not even that is known.
    /// `resp` is the client's head, which may change until there is something.
    pub fn push(&mut self, bytes: &[u8], resp: &mut ResponseHeader) -> Result<Option<Bytes>, GatewayError> {
        self.buffer.extend_from_slice(bytes);
        let mut out: Option<BytesMut> = None;
        while let Some(said) = self.next_message()? {
            match said {
                _ if self.is_complete => return Err(BROKEN),
                Said::Payload(payload) => {
                    if let Some(body) = self.read(payload, resp)? {
                        out.get_or_insert_default().extend_from_slice(&body);
                    }
                }
                Said::Complete => self.is_complete = true,
                Said::Other => {}
            }
        }
        Ok(out.map(BytesMut::freeze))
    }

    /// The stream has ended: what is left for the client, or how it should not have ended.
    pub fn finish(&mut self) -> Result<Bytes, GatewayError> {
        if !self.is_complete {
            return Err(GatewayError::UpstreamReset);
        }
        match std::mem::replace(&mut self.payload, Payload::Body) {
            Payload::Head(held) => Ok(held.freeze()),
            Payload::Body | Payload::Nothing => Ok(Bytes::new()),
        }
    }

    fn next_message(&mut self) -> Result<Option<Said>, GatewayError> {
        let Some(length) = self.buffer.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(SMALLEST_MESSAGE..=LARGEST_MESSAGE).contains(&length) {
            return Err(BROKEN);
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let message = read_message_from(self.buffer.split_to(length).freeze()).map_err(|_| BROKEN)?;
        let headers = parse_response_headers(&message).map_err(|_| BROKEN)?;
        match (headers.message_type.as_str(), headers.smithy_type.as_str()) {
            ("event", "PayloadChunk") => Ok(Some(Said::Payload(message.payload().clone()))),
            ("event", "InvokeComplete") => complete(message.payload()).map(|()| Some(Said::Complete)),
            ("event", _) => Ok(Some(Said::Other)),
            _ => Err(BROKEN_OFF),
        }
    }

    /// What of the payload is body; the function's head goes into `resp`.
    fn read(&mut self, payload: Bytes, resp: &mut ResponseHeader) -> Result<Option<Bytes>, GatewayError> {
        let held = match &mut self.payload {
            Payload::Body => return Ok(Some(payload)),
            Payload::Nothing => return Ok(None),
            Payload::Head(held) => held,
        };
        // The delimiter may have begun in the piece before.
        let known = held.len().saturating_sub(DELIMITER.len() - 1);
        held.extend_from_slice(&payload);
        let window = known..held.len().min(LONGEST_HEAD + DELIMITER.len());
        let delimiter = held.get(window).and_then(|bytes| find(bytes, &DELIMITER));
        match (held.first(), delimiter) {
            (None, _) => Ok(None),
            (Some(b'{'), None) if held.len() < LONGEST_HEAD => Ok(None),
            (Some(b'{'), Some(at)) => {
                let head = held.split_to(known + at);
                let body = held.split_off(DELIMITER.len()).freeze();
                let is_bodiless = set_head(&head, resp)?;
                self.payload = if is_bodiless { Payload::Nothing } else { Payload::Body };
                Ok(Some(if is_bodiless { Bytes::new() } else { body }))
            }
            _ => {
                let body = std::mem::take(held).freeze();
                self.payload = Payload::Body;
                Ok(Some(body))
            }
        }
    }
}

/// Makes `resp` the head that a function says; whether it can have no body.
fn set_head(json: &[u8], resp: &mut ResponseHeader) -> Result<bool, GatewayError> {
    let members = Members::parse(json).ok_or(BAD_HEAD)?;
    let (status, headers, reason) = read_head(&members, Form::Raw)?;
    let said = Returned { answer: Answer { status, headers, body: Bytes::new() }, reason }.head()?;
    let stream = std::mem::replace(resp, said);
    keep_call_id(&stream, resp)?;
    Ok(is_bodiless(status))
}

/// The last message says whether the function failed.
fn complete(payload: &[u8]) -> Result<(), GatewayError> {
    #[derive(Deserialize)]
    struct Complete {
        #[serde(rename = "ErrorCode")]
        error_code: Option<String>,
    }
    if payload.is_empty() {
        return Ok(());
    }
    let Complete { error_code } = serde_json::from_slice(payload).map_err(|_| BROKEN)?;
    if error_code.is_some_and(|code| !code.is_empty()) { Err(GatewayError::FunctionError) } else { Ok(()) }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Between the function's head and its body.
const DELIMITER: [u8; 8] = [0; 8];
const INTEGRATION: &[u8] = b"application/vnd.awslambda.http-integration-response";

/// What begins like a head and is longer is a body; API Gateway draws the line here, too.
const LONGEST_HEAD: usize = 16 << 10;

/// Lengths and checksums.
const SMALLEST_MESSAGE: usize = 16;
/// The format's own bound: 128 KiB of headers, 24 MiB of payload.
const LARGEST_MESSAGE: usize = SMALLEST_MESSAGE + (128 << 10) + (24 << 20);

const BROKEN: GatewayError = GatewayError::BadEnvelope("the platform's event stream cannot be understood");
const BROKEN_OFF: GatewayError = GatewayError::PlatformError("the platform broke off the function's answer");
const BAD_HEAD: GatewayError = GatewayError::BadEnvelope("the head of the function's answer is not JSON");

#[cfg(test)]
mod tests;
