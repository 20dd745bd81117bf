//! What Lambda's API answers when it does not call the function, and what the client is told of it: never more than a sentence of ours,
//! since the API's own name accounts, roles and ARNs.
//!
//! | the API's answer | the client's |
//! | --- | --- |
//! | 401, 403: the signature or the permission | 403 `credential_refused` |
//! | 404: no such function, version or alias | 404 `no_function` |
//! | 413: the event is too large | 413 `body_too_large` |
//! | 429: the function's or the account's concurrency, or the rate of calls | 429 `throttled`, with its `Retry-After` |
//! | 400 `InvalidRequestContentException`: the event is not JSON | 400 `bad_request` |
//! | anything else: the function's state, image, network, role; faults of the service | 502 `platform_error` |

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};
use pingora::http::ResponseHeader;

use crate::error::GatewayError;

/// `None` for an answer to a call that was made.
pub(super) fn read(resp: &ResponseHeader) -> Option<GatewayError> {
    if resp.headers.contains_key(FUNCTION_ERROR) {
        return Some(GatewayError::FunctionError);
    }
    match resp.status.as_u16() {
        200..=299 => None,
        401 | 403 => Some(GatewayError::CredentialRefused),
        404 => Some(GatewayError::NoFunction),
        413 => Some(GatewayError::BodyTooLarge),
        429 => Some(GatewayError::Throttled(retry_after(resp))),
        400 if is(resp, b"InvalidRequestContentException") => {
            Some(GatewayError::BadRequest("the function takes no such event"))
        }
        400..=499 => Some(GatewayError::PlatformError("the platform does not take this call")),
        _ => Some(GatewayError::PlatformError("the platform could not call the function")),
    }
}

/// The exception's name, which may be followed by where it is defined.
fn is(resp: &ResponseHeader, exception: &[u8]) -> bool {
    let name = resp.headers.get(ERROR_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    name.split(|byte| *byte == b':').next() == Some(exception)
}

fn retry_after(resp: &ResponseHeader) -> Option<u32> {
    resp.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// Present when the function's own code failed; the status is 200 nevertheless.
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
pub(super) const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, fields: &[(&'static str, &str)], expected: Option<GatewayError>) {
        let mut resp = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            resp.append_header(*name, *value).unwrap();
        }
        assert_eq!(read(&resp), expected, "{status} {fields:?}");
    }

    #[test]
    fn a_function_error_is_no_success() {
        check(200, &[("x-amz-function-error", "Unhandled")], Some(GatewayError::FunctionError));
        check(200, &[("X-Amz-Function-Error", "Handled")], Some(GatewayError::FunctionError));
        check(200, &[], None);
        check(202, &[], None);
    }

    #[test]
    fn every_refusal_has_a_reason() {
        let kind = |name| [("x-amzn-errortype", name)];
        check(403, &kind("AccessDeniedException"), Some(GatewayError::CredentialRefused));
        check(403, &kind("UnrecognizedClientException"), Some(GatewayError::CredentialRefused));
        check(404, &kind("ResourceNotFoundException"), Some(GatewayError::NoFunction));
        check(413, &kind("RequestTooLargeException"), Some(GatewayError::BodyTooLarge));
        check(429, &kind("TooManyRequestsException"), Some(GatewayError::Throttled(None)));
        check(429, &[("retry-after", "7")], Some(GatewayError::Throttled(Some(7))));
        check(429, &[("retry-after", "soon")], Some(GatewayError::Throttled(None)));
        for name in
            ["InvalidRequestContentException", "InvalidRequestContentException:http://internal.amazon.com/"]
        {
            let error = GatewayError::BadRequest("the function takes no such event");
            check(400, &kind(name), Some(error));
        }
        for (status, name) in [
            (400, "InvalidParameterValueException"),
            (400, "RecursiveInvocationException"),
            (402, "ServiceQuotaExceededException"),
            (409, "ResourceConflictException"),
            (410, "EFSIOException"),
            (415, "UnsupportedMediaTypeException"),
        ] {
            check(
                status,
                &kind(name),
                Some(GatewayError::PlatformError("the platform does not take this call")),
            );
        }
        for status in [301, 500, 502, 503] {
            let error = GatewayError::PlatformError("the platform could not call the function");
            check(status, &[], Some(error));
        }
    }
}
