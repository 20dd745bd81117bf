//! Where credentials come from, and going there: AWS's own crate does it, so that everything is found that its tools find.
//!
//! Slow and fallible by nature; only a [`Keeper`](super::Keeper) calls it.

use std::fmt;
use std::path::PathBuf;

use aws_config::Region;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use super::Credentials;
use crate::values::credential_identity;

/// What the configuration says about credentials.
#[derive(Debug, Clone)]
pub enum Source {
    /// They are these.
    Keys(Credentials),
    /// They are found there, and change.
    Lookup(Lookup),
}

impl Source {
    /// A number that is the same for equal sources in this process, and says nothing about the keys.
    pub fn identity(&self) -> u64 {
        match self {
            Source::Keys(credentials) => credentials.digest(),
            Source::Lookup(lookup) => credential_identity([format!("{lookup:?}").as_bytes()]),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lookup {
    pub origin: Origin,
    /// Whose token service exchanges an identity for keys, where the environment names no region.
    pub region: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The first of those below that has any, as all of AWS's tools go through them.
    Default,
    /// `AWS_ACCESS_KEY_ID` and what belongs to it.
    Environment,
    /// A profile of the shared files; unnamed ones are those that AWS's tools would take.
    Profile { name: Option<String>, credentials_file: Option<PathBuf> },
    /// A token in a file, exchanged for a role's keys: service accounts on EKS.
    WebIdentity,
    /// The agent beside a container: ECS, Pod Identity on EKS.
    Container,
    /// The instance's metadata service, version 2: EC2.
    Imds,
}

impl Lookup {
    /// Everything is read anew each time: files, variables, tokens.
    pub(super) async fn fetch(&self, client: &SharedHttpClient) -> Result<Credentials, CredentialsError> {
        let region = match EnvironmentVariableRegionProvider::new().region().await {
            Some(region) => region,
            None => Region::new(self.region.clone()),
        };
        let config = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_http_client(client.clone());
        let found = match &self.origin {
            Origin::Default => {
                let chain = DefaultCredentialsChain::builder().configure(config).region(region).build().await;
                chain.provide_credentials().await
            }
            Origin::Environment => EnvironmentVariableCredentialsProvider::new().provide_credentials().await,
            Origin::Profile { name, credentials_file } => {
                let mut profile = ProfileFileCredentialsProvider::builder().configure(&config);
                if let Some(name) = name {
                    profile = profile.profile_name(name);
                }
                if let Some(file) = credentials_file {
                    let files = EnvConfigFiles::builder().include_default_config_file(true);
                    profile =
                        profile.profile_files(files.with_file(EnvConfigFileKind::Credentials, file).build());
                }
                profile.build().provide_credentials().await
            }
            Origin::WebIdentity => {
                let provider = WebIdentityTokenCredentialsProvider::builder().configure(&config).build();
                provider.provide_credentials().await
            }
            Origin::Container => {
                EcsCredentialsProvider::builder().configure(&config).build().provide_credentials().await
            }
            Origin::Imds => {
                ImdsCredentialsProvider::builder().configure(&config).build().provide_credentials().await
            }
        };
        found.map(Credentials::from)
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str("default order"),
            Origin::Environment => f.write_str("environment"),
            Origin::Profile { name: None, .. } => f.write_str("profile"),
            Origin::Profile { name: Some(name), .. } => write!(f, "profile `{name}`"),
            Origin::WebIdentity => f.write_str("web_identity"),
            Origin::Container => f.write_str("container"),
            Origin::Imds => f.write_str("imds"),
        }
    }
}

/// The client for those of them that are asked over HTTP. TLS is the same as everywhere in the gateway.
pub(super) fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

#[cfg(test)]
mod tests;
