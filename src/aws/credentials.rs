//! `Credentials`: the keys a request is signed with, for as long as they are valid.

use std::fmt;
use std::time::SystemTime;

use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_smithy_runtime_api::client::identity::Identity;

use crate::values::{Secret, credential_identity};

/// A set of keys. Its `Debug` shows nothing, its memory is wiped when the last copy is dropped.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    digest: u64,
    expiry: Option<SystemTime>,
    place: &'static str,
}

impl Credentials {
    pub fn new(accesskey: &Secret, secretkey: &Secret, session_token: Option<&Secret>) -> Self {
        let session_token = session_token.map(|token| token.expose().to_owned());
        aws_credential_types::Credentials::new(
            accesskey.expose(),
            secretkey.expose(),
            session_token,
            None,
            "fngate",
        )
        .into()
    }

    /// When they stop being valid; `None` for those that are valid until somebody revokes them.
    pub fn expiry(&self) -> Option<SystemTime> {
        self.expiry
    }

    /// A number that is the same for equal keys in this process.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Where they were found.
    pub(super) fn place(&self) -> &'static str {
        self.place
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl From<aws_credential_types::Credentials> for Credentials {
    fn from(keys: aws_credential_types::Credentials) -> Self {
        let parts =
            [keys.access_key_id(), keys.secret_access_key(), keys.session_token().unwrap_or_default()];
        Credentials {
            digest: credential_identity(parts.map(str::as_bytes)),
            expiry: keys.expiry(),
            place: place(&keys),
            identity: keys.into(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// In the words of the configuration. The last feature is that of the provider that was asked, after those that it asked.
fn place(keys: &aws_credential_types::Credentials) -> &'static str {
    use AwsCredentialFeature::*;
    match keys.get_property::<Vec<AwsCredentialFeature>>().and_then(|features| features.last()) {
        Some(CredentialsEnvVars) => "environment",
        Some(CredentialsProfile) => "profile",
        Some(CredentialsProfileStsWebIdToken) => "web_identity",
        Some(CredentialsHttp) => "container",
        Some(CredentialsImds) => "imds",
        _ => "elsewhere",
    }
}
