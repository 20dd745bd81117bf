//! What a function is given, and what its return value becomes: one of four forms.
//!
//! | `payload` | the event | the return value |
//! | --- | --- | --- |
//! | `raw` | the client's body, which is JSON; `{}` for an empty one | the client's body, as `application/json` |
//! | `apigw_v1` | the request as an API Gateway's REST API has it | `statusCode`, `headers`, `multiValueHeaders`, `body`, `isBase64Encoded` |
//! | `apigw_v2` | the request as its HTTP API and a function URL have it | the same with `cookies`; whatever has no `statusCode` is a body of its own |
//! | `alb` | the request as an Application Load Balancer has it | as `apigw_v1`, with `statusDescription` |
//!
//! What only AWS could know is left out of the events: accounts, ARNs, authorizers. `golden/` holds one event of each form.

mod alb;
mod apigw_v1;
mod apigw_v2;
mod request;
pub mod returned;

use std::time::SystemTime;

use bytes::Bytes;
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use self::request::Asked;
use self::returned::Returned;
use crate::error::GatewayError;
use crate::platforms::Call;
use crate::platforms::envelope::{JSON, NOT_JSON, finish, is_blank};
use crate::platforms::template::Route;

/// A form of event and return value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    Raw,
    ApigwV1,
    ApigwV2,
    Alb,
}

/// Makes events of requests, and answers of return values.
#[derive(Debug)]
pub struct Payload {
    form: Form,
    /// The names of the route's parameters, which three of the forms have.
    parameters: Vec<String>,
}

impl Payload {
    pub fn new(form: Form, route: Route<'_>) -> Self {
        Payload { form, parameters: route.parameters.iter().map(|name| (*name).to_owned()).collect() }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// The function's event. `head` is the client's, with the forwarding fields of the gateway; `at` is now.
    pub fn event(
        &self,
        call: &Call<'_>,
        head: &RequestHeader,
        body: Bytes,
        at: SystemTime,
    ) -> Result<Bytes, GatewayError> {
        let asked = || Asked::new(call, head, &body, &self.parameters, at);
        match self.form {
            Form::Raw => json_text(body),
            Form::ApigwV1 => json(&apigw_v1::event(&asked()?)?),
            Form::ApigwV2 => json(&apigw_v2::event(&asked()?)?),
            Form::Alb => json(&alb::event(&asked()?)),
        }
    }

    /// The client's answer, from what the function returned.
    pub fn answer(&self, value: Bytes) -> Result<Returned, GatewayError> {
        match self.form {
            Form::Raw => Ok(finish(http::StatusCode::OK, vec![], value, JSON).into()),
            Form::ApigwV1 | Form::ApigwV2 | Form::Alb => returned::read(&value, self.form),
        }
    }
}

/// The body itself, bytes unchanged, when it is JSON.
fn json_text(body: Bytes) -> Result<Bytes, GatewayError> {
    if is_blank(&body) {
        return Ok(Bytes::from_static(b"{}"));
    }
    // Values that are only skipped are skipped without recursion: no depth of nesting can exhaust the stack.
    match serde_json::from_slice::<IgnoredAny>(&body) {
        Ok(IgnoredAny) => Ok(body),
        Err(_) => Err(GatewayError::BadRequest("the body is not JSON")),
    }
}

fn json(event: &impl Serialize) -> Result<Bytes, GatewayError> {
    serde_json::to_vec(event).map(Bytes::from).map_err(|_| GatewayError::Internal)
}

#[cfg(test)]
mod tests;
