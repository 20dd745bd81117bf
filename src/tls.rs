//! `Identity`: a certificate chain with its key, as a listener presents it. `ServerIdentities`: which one a client gets to see.
//!
//! No key, and nothing from a key's file, is ever part of a message.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::diag::{Invalid, NamedFile};

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
    /// Reads and checks a pair: the key fits the certificate. Whether it is valid now is for [`Identity::validity`] to say.
    pub fn load(certificate: &NamedFile<'_>, key: &NamedFile<'_>) -> Result<Self, Invalid> {
        let chain = read_chain(certificate)?;
        let signing_key = read_key(key)?;
        let (certificate, key) = (certificate.path(), key.path());
        let name = certificate.display().to_string();
        let unusable = |why: &dyn std::fmt::Display| {
            Invalid::new(format!("the first certificate of `{name}` cannot be used: {why}"))
        };
        let leaf = chain.first().ok_or_else(|| no_certificate(certificate))?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|e| unusable(&e))?;
        let names = leaf.subject_alternative_name().map_err(|e| unusable(&e))?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let dns_names = names.iter().filter_map(dns_name).collect();
        let (not_before, not_after) =
            (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());

        let pair = CertifiedKey::new(chain, signing_key);
        pair.keys_match().map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                Invalid::new(format!("the key `{}` does not belong to `{name}`", key.display()))
                    .hint("the server's own certificate comes first in its file, then those that issued it")
            }
            error => unusable(&error),
        })?;
        Ok(Identity { name, key: Arc::new(pair), dns_names, not_before, not_after })
    }

    /// Whether clients will accept the certificate at this time.
    ///
    /// For the operator to know, not a reason to refuse a start: behind an expired certificate, a gateway still serves whoever does
    /// not mind, and all of its other listeners.
    pub fn validity(&self, now: SystemTime) -> Result<(), Invalid> {
        let now = OffsetDateTime::from(now).unix_timestamp();
        let invalid = |what: &str, when: i64| {
            Invalid::new(format!("the certificate `{}` {what} {}", self.name, date(when)))
                .hint("renew it, or check this machine's clock")
        };
        if now < self.not_before {
            return Err(invalid("is not valid before", self.not_before));
        }
        if now > self.not_after {
            return Err(invalid("expired on", self.not_after));
        }
        Ok(())
    }
}

/// The identities of one listener. They can be swapped while it serves; the next handshake sees the new ones.
#[derive(Debug)]
pub struct ServerIdentities {
    table: ArcSwap<Table>,
}

impl ServerIdentities {
    pub fn new(identities: &[Identity]) -> Self {
        ServerIdentities { table: ArcSwap::from_pointee(Table::new(identities)) }
    }

    pub fn swap(&self, identities: &[Identity]) {
        self.table.store(Arc::new(Table::new(identities)));
    }
}

impl ResolvesServerCert for ServerIdentities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.table.load().find(hello.server_name()).cloned()
    }
}

/// Identities by name; where two claim the same one, the earlier has it.
#[derive(Debug, Default)]
struct Table {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// The first identity: for clients that name no host, or an unknown one.
    default: Option<Arc<CertifiedKey>>,
}

impl Table {
    fn new(identities: &[Identity]) -> Self {
        let mut table =
            Table { default: identities.first().map(|first| first.key.clone()), ..Table::default() };
        for identity in identities {
            for name in &identity.dns_names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut table.wildcard, parent),
                    None => (&mut table.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_insert_with(|| identity.key.clone());
            }
        }
        table
    }

    /// The exact name, then a wildcard over its first label, then the default. Names are in lower case on both sides: rustls
    /// lowers what the client sent.
    fn find(&self, server_name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = server_name
            .and_then(|name| self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1)));
        named.or(self.default.as_ref())
    }
}

fn read_chain(file: &NamedFile<'_>) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let path = file.path();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|_| Invalid::new(format!("`{}` is broken PEM", path.display())))?;
    if chain.is_empty() { Err(no_certificate(path)) } else { Ok(chain) }
}

fn no_certificate(path: &Path) -> Invalid {
    Invalid::new(format!("`{}` holds no certificate", path.display()))
        .hint("a PEM file, which has a section `BEGIN CERTIFICATE`")
}

fn read_key(file: &NamedFile<'_>) -> Result<Arc<dyn SigningKey>, Invalid> {
    let pem = read(file)?;
    let invalid = |what: &str| Invalid::new(format!("`{}` {what}", file.path().display()));
    if ENCRYPTED.iter().any(|mark| pem.windows(mark.len()).any(|window| window == *mark)) {
        return Err(invalid("is encrypted, and nobody is there to type its password")
            .hint("`openssl pkey -in FILE -out PLAIN`, and let only the service read it"));
    }
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            invalid("holds no private key").hint("a PEM file, which has a section `BEGIN PRIVATE KEY`")
        }
        _ => invalid("is broken PEM"),
    })?;
    ring::sign::any_supported_type(&der).map_err(|_| {
        invalid("holds no key that can be used").hint("RSA, ECDSA on P-256 or P-384, or Ed25519")
    })
}

fn read(file: &NamedFile<'_>) -> Result<Vec<u8>, Invalid> {
    let hint = "a PEM file that the user the service runs as can read";
    file.read(LARGEST_FILE).map_err(|invalid| invalid.hint(hint))
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("second {seconds} since 1970"))
}

/// A chain is a hundredth of this.
const LARGEST_FILE: u64 = 1 << 20;

/// How PEM says that a key needs a password: PKCS #8, and the older form.
const ENCRYPTED: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

#[cfg(test)]
mod tests;
