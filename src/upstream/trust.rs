//! `Roots`: the certificate authorities of one PEM file, in the form Pingora's connector takes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::diag::{Invalid, NamedFile};

/// The authorities of one `ca` file.
#[derive(Clone)]
pub struct Roots {
    path: PathBuf,
    authorities: Arc<CaType>,
    /// Two files with the same bytes give the same number; it keeps connections opened under other roots apart.
    identity: u64,
}

impl Roots {
    pub fn load(file: &NamedFile<'_>) -> Result<Self, Invalid> {
        let path = file.path();
        let pem = file.read(LARGEST_FILE)?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|e| Invalid::new(format!("`{}` is not PEM: {e}", path.display())))?;
        if certificates.is_empty() {
            return Err(Invalid::new(format!("`{}` holds no certificate", path.display()))
                .hint("a PEM file, which has a section `BEGIN CERTIFICATE`"));
        }
        // `parse_x509` panics on what is no certificate, so each is parsed here first.
        if let Some(position) = certificates.iter().position(|der| X509Certificate::from_der(der).is_err()) {
            return Err(Invalid::new(format!(
                "certificate {} of `{}` cannot be parsed",
                position + 1,
                path.display()
            )));
        }
        let authorities =
            certificates.into_iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
        Ok(Roots { path: path.to_owned(), authorities, identity: identity(&pem) })
    }

    pub fn authorities(&self) -> Arc<CaType> {
        Arc::clone(&self.authorities)
    }

    pub fn identity(&self) -> u64 {
        self.identity
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({}, {} certificates)", self.path.display(), self.authorities.len())
    }
}

fn identity(pem: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    pem.hash(&mut hasher);
    hasher.finish()
}

/// The bundles of whole operating systems are a twentieth of this.
const LARGEST_FILE: u64 = 4 << 20;
