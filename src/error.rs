//! `GatewayError`: every reason for which the gateway answers by itself.
//!
//! The client learns the code and a fixed sentence; causes, addresses and platform messages go to the log.
//! The same `code` stands in the answer's body, in the access log's `reason` and in the metrics' label.

use std::borrow::Cow;

use http::StatusCode;

/// One variant per reason. Cheap to build: nothing here is formatted before it goes on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayError {
    /// No route matches host and path.
    NoRoute,
    /// The path exists, but not with this method; the string is the `Allow` header.
    MethodNotAllowed(Cow<'static, str>),
    /// The request is malformed or leaves something to be guessed.
    BadRequest(&'static str),
    /// The same, where HTTP has a closer status for it than 400.
    BadRequestAs(StatusCode, &'static str),
    /// The path could leave the function's own space.
    BadPath,
    BodyTooLarge,
    HeadersTooLarge,
    /// A transfer coding other than `chunked`.
    UnsupportedCoding,
    /// The client took longer over its request than the limit allows.
    RequestTimeout,
    UpstreamConnect,
    UpstreamTls,
    UpstreamResolve,
    /// The function was silent for longer than `timeout`.
    UpstreamTimeout,
    ConnectTimeout,
    /// The whole exchange took longer than `deadline`.
    Deadline,
    UpstreamReset,
    UpstreamProtocol,
    /// The platform's envelope cannot be understood.
    BadEnvelope(&'static str),
    /// The platform says that the function's own code failed, behind a status that says nothing of it.
    FunctionError,
    /// There is no credential to call the function with, or none that is still valid.
    NoCredential,
    /// The platform refused the credential, and its answer is not for clients.
    CredentialRefused,
    /// The platform knows no such function.
    NoFunction,
    /// The platform takes no further call now; after so many seconds it may, if it says so.
    Throttled(Option<u32>),
    /// The platform could not call the function, for reasons of its own.
    PlatformError(&'static str),
    /// The function was not there for as long as its route lets a request wait.
    ColdStart,
    Overloaded,
    Draining,
    ClientGone,
    /// The client took too little of its answer.
    ClientSlow,
    /// The client keeps the gateway busy with frames that carry nothing.
    ClientFlood,
    /// A fault of our own; the request ends, the process does not.
    Internal,
}

/// A failure that an answer reports. It is no error of the gateway: the answer is passed on as it is, but the access log and the
/// metrics call it what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// The function answered 401 or 403 to a credential of ours.
    CredentialRefused,
    /// The function's own code failed.
    FunctionError,
    /// The platform could not bring the call to the function, which never saw it.
    NotReached,
}

impl Reported {
    pub const ALL: [Reported; 3] =
        [Reported::CredentialRefused, Reported::FunctionError, Reported::NotReached];

    pub fn code(self) -> &'static str {
        match self {
            Reported::CredentialRefused => CREDENTIAL_REFUSED,
            Reported::FunctionError => FUNCTION_ERROR,
            Reported::NotReached => "not_reached",
        }
    }
}

/// One word, whether the platform shows the failure with a status of its own or hides it behind a 200.
const FUNCTION_ERROR: &str = "function_error";
/// One word, whether what the platform says of it may pass or not.
const CREDENTIAL_REFUSED: &str = "credential_refused";

impl GatewayError {
    pub fn status(&self) -> StatusCode {
        use GatewayError::*;
        match self {
            NoRoute => StatusCode::NOT_FOUND,
            MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            BadRequest(_) | BadPath => StatusCode::BAD_REQUEST,
            BadRequestAs(status, _) => *status,
            BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            UnsupportedCoding => StatusCode::NOT_IMPLEMENTED,
            RequestTimeout | ClientSlow => StatusCode::REQUEST_TIMEOUT,
            UpstreamConnect | UpstreamTls | UpstreamResolve => StatusCode::BAD_GATEWAY,
            UpstreamReset | UpstreamProtocol | BadEnvelope(_) | FunctionError | NoCredential => {
                StatusCode::BAD_GATEWAY
            }
            PlatformError(_) => StatusCode::BAD_GATEWAY,
            CredentialRefused => StatusCode::FORBIDDEN,
            NoFunction => StatusCode::NOT_FOUND,
            Throttled(_) => StatusCode::TOO_MANY_REQUESTS,
            UpstreamTimeout | ConnectTimeout | Deadline => StatusCode::GATEWAY_TIMEOUT,
            ColdStart | Overloaded | Draining => StatusCode::SERVICE_UNAVAILABLE,
            ClientGone => CLIENT_CLOSED_REQUEST,
            ClientFlood => StatusCode::TOO_MANY_REQUESTS,
            Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Stable, `snake_case`: body, log and metric use this word.
    pub fn code(&self) -> &'static str {
        use GatewayError::*;
        match self {
            NoRoute => "no_route",
            MethodNotAllowed(_) => "method_not_allowed",
            BadRequest(_) | BadRequestAs(..) => "bad_request",
            BadPath => "bad_path",
            BodyTooLarge => "body_too_large",
            HeadersTooLarge => "headers_too_large",
            UnsupportedCoding => "unsupported_coding",
            RequestTimeout => "request_timeout",
            UpstreamConnect => "upstream_connect",
            UpstreamTls => "upstream_tls",
            UpstreamResolve => "upstream_resolve",
            UpstreamTimeout => "upstream_timeout",
            ConnectTimeout => "connect_timeout",
            Deadline => "deadline",
            UpstreamReset => "upstream_reset",
            UpstreamProtocol => "upstream_protocol",
            BadEnvelope(_) => "bad_envelope",
            FunctionError => FUNCTION_ERROR,
            NoCredential => "no_credential",
            CredentialRefused => CREDENTIAL_REFUSED,
            NoFunction => "no_function",
            Throttled(_) => "throttled",
            PlatformError(_) => "platform_error",
            ColdStart => "cold_start",
            Overloaded => "overloaded",
            Draining => "draining",
            ClientGone => "client_gone",
            ClientSlow => "client_slow",
            ClientFlood => "client_flood",
            Internal => "internal",
        }
    }

    /// The sentence for the client. Fixed text only.
    pub fn message(&self) -> &'static str {
        use GatewayError::*;
        match self {
            NoRoute => "nothing is served at this host and path",
            MethodNotAllowed(_) => "this path does not take this method",
            BadRequest(reason) | BadRequestAs(_, reason) => reason,
            BadPath => {
                "the path is not acceptable: it has dot segments, control characters or broken escapes, or a name that the platform would not take"
            }
            BodyTooLarge => "the body is larger than this gateway accepts",
            HeadersTooLarge => "the request's head is larger than this gateway accepts",
            UnsupportedCoding => "the only transfer coding understood here is chunked",
            RequestTimeout => "the request did not arrive in time",
            UpstreamConnect => "no connection to the function could be made",
            UpstreamTls => "no trusted TLS connection to the function could be made",
            UpstreamResolve => "the function's name could not be resolved",
            UpstreamTimeout => "the function did not answer in time",
            ConnectTimeout => "the connection to the function was not made in time",
            Deadline => "the call took longer than its deadline",
            UpstreamReset => "the function closed the connection before its answer was complete",
            UpstreamProtocol => "the function's answer is not valid HTTP",
            BadEnvelope(reason) => reason,
            FunctionError => "the function failed",
            NoCredential => "the gateway has no valid credential for the function",
            CredentialRefused => "the platform refused the gateway's credential",
            NoFunction => "the platform knows no such function",
            Throttled(_) => "the platform takes no further call of this function now",
            PlatformError(reason) => reason,
            ColdStart => "the function has not started yet",
            Overloaded => "as many requests are under way as may be",
            Draining => "the gateway is shutting down",
            ClientGone => "the client closed the connection",
            ClientSlow => "the client did not take its answer in time",
            ClientFlood => "the client sent too many frames that carry nothing",
            Internal => "the gateway failed",
        }
    }

    /// Seconds after which a client may try again; only for refusals that are the gateway's own decision, or that the platform dated.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            GatewayError::ColdStart | GatewayError::Overloaded | GatewayError::Draining => Some(1),
            GatewayError::Throttled(after) => *after,
            _ => None,
        }
    }
}

/// nginx's 499: never sent, only logged.
pub const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => unreachable!(),
};

impl std::fmt::Display for GatewayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code(), self.message())
    }
}

impl std::error::Error for GatewayError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_refusals_invite_to_come_back() {
        assert_eq!(GatewayError::Overloaded.retry_after(), Some(1));
        assert_eq!(GatewayError::Draining.retry_after(), Some(1));
        assert_eq!(GatewayError::UpstreamTimeout.retry_after(), None);
    }

    #[test]
    fn late_is_504_and_broken_is_502() {
        assert_eq!(GatewayError::ConnectTimeout.status(), 504);
        assert_eq!(GatewayError::UpstreamReset.status(), 502);
        assert_eq!(GatewayError::ClientGone.status(), 499);
    }
}
