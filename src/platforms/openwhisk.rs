//! OpenWhisk.
use super::*;
use schemars::JsonSchema;
use serde::Deserialize;
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Raw {}
#[derive(Debug)]
pub struct Action;
impl Buffered for Action {
    fn limits(&self) -> &BodyLimits {
        unimplemented!()
    }
    fn seal(&self, _: &Call<'_>, _: &mut RequestHeader, _: Bytes) -> Result<Bytes, GatewayError> {
        unimplemented!()
    }
    fn open(&self, _: &Call<'_>, _: &mut ResponseHeader, _: Bytes) -> Result<Bytes, GatewayError> {
        unimplemented!()
    }
}
pub fn compile(_: Raw, _: &Scope<'_>) -> Option<Compiled> {
    None
}
