//! `Credentials`: the keys a request is signed with.

use std::fmt;

use aws_smithy_runtime_api::client::identity::Identity;

use crate::values::Secret;

/// A set of keys. Its `Debug` shows nothing, its memory is wiped when the last copy is dropped.
#[derive(Clone)]
pub struct Credentials(Identity);

impl Credentials {
    pub fn new(accesskey: &Secret, secretkey: &Secret, session_token: Option<&Secret>) -> Self {
        let session_token = session_token.map(|token| token.expose().to_owned());
        let (accesskey, secretkey) = (accesskey.expose(), secretkey.expose());
        let keys =
            aws_credential_types::Credentials::new(accesskey, secretkey, session_token, None, "fngate");
        Credentials(keys.into())
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}
