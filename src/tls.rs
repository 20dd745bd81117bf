//! `Identity`: a certificate chain with its key, as a listener presents it.

use std::path::Path;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::diag::Invalid;

#[derive(Debug, Clone)]
pub struct Identity {
    /// The path of the certificate file: the metric's `name`.
    pub name: String,
    pub key: Arc<CertifiedKey>,
    /// Lower-case DNS names of the certificate, wildcards as `*.example.org`.
    pub dns_names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

impl Identity {
    /// Reads and checks a pair: the key fits the certificate.
    pub fn load(_certificate: &Path, _key: &Path) -> Result<Self, Invalid> {
        unimplemented!()
    }
}
