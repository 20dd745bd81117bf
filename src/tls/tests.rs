//! Pairs on disk, and real handshakes over loopback.

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::diag::{Diagnostics, Scope};

/// A pair in files of its own.
struct Pair {
    _directory: TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn new(names: &[&str]) -> Self {
        Pair::of(params(names), &KeyPair::generate().unwrap())
    }

    fn of(params: CertificateParams, key: &KeyPair) -> Self {
        Pair::write(&params.self_signed(key).unwrap().pem(), &key.serialize_pem())
    }

    fn write(cert_pem: &str, key_pem: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = (directory.path().join("site.pem"), directory.path().join("site.key"));
        std::fs::write(&cert, cert_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
        Pair { _directory: directory, cert, key }
    }

    fn load(&self) -> Result<Identity, Invalid> {
        load(&self.cert, &self.key)
    }
}

fn load(cert: &Path, key: &Path) -> Result<Identity, Invalid> {
    let book = Diagnostics::default();
    let scope = Scope::root(&book, 0);
    Identity::load(&scope.file(cert), &scope.file(key))
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn identity(names: &[&str]) -> Identity {
    Pair::new(names).load().unwrap()
}

#[test]
fn a_pair_tells_its_names_and_its_time() {
    let mut params = params(&["Example.ORG", "*.Example.org", "127.0.0.1", "::1"]);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    let pair = Pair::of(params, &KeyPair::generate().unwrap());
    let identity = pair.load().unwrap();
    assert_eq!(identity.name, pair.cert.display().to_string());
    assert_eq!(identity.dns_names, ["example.org", "*.example.org"]);
    assert_eq!((identity.not_before, identity.not_after), (1_577_836_800, 1_893_456_000));
}

#[test]
fn validity_depends_on_the_time() {
    let mut params = params(&["example.org"]);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    let identity = Pair::of(params, &KeyPair::generate().unwrap()).load().unwrap();
    let at = |seconds| identity.validity(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(1_577_836_800), Ok(()));
    assert_eq!(at(1_893_456_000), Ok(()));
    let early = at(1_577_836_799).unwrap_err();
    assert!(early.message.ends_with("is not valid before 2020-01-01T00:00:00Z"), "{early}");
    let late = at(1_893_456_001).unwrap_err();
    assert!(late.message.ends_with("expired on 2030-01-01T00:00:00Z"), "{late}");
    assert!(late.hint.is_some());
}

#[test]
fn every_supported_kind_of_key_is_read() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        Pair::of(params(&["example.org"]), &key).load().unwrap();
    }
}

#[test]
fn the_whole_chain_is_kept() {
    let (key, issuer) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let leaf = params(&["example.org"]).self_signed(&key).unwrap();
    let next = params(&["issuer.example"]).self_signed(&issuer).unwrap();
    let pair = Pair::write(&(leaf.pem() + &next.pem()), &key.serialize_pem());
    assert_eq!(pair.load().unwrap().key.cert, [leaf.der().clone(), next.der().clone()]);

    let reversed = Pair::write(&(next.pem() + &leaf.pem()), &key.serialize_pem());
    fault(&reversed, "does not belong to");
}

#[track_caller]
fn fault(pair: &Pair, part: &str) {
    let invalid = pair.load().unwrap_err();
    assert!(invalid.message.contains(part), "{invalid}");
    let said = format!("{} {:?}", invalid.message, invalid.hint);
    let key = std::fs::read_to_string(&pair.key).unwrap_or_default();
    assert!(
        key.lines().all(|line| line.starts_with('-') || line.is_empty() || !said.contains(line)),
        "{said}"
    );
}

#[test]
fn a_mismatched_pair_is_refused() {
    let (mine, other) = (Pair::new(&["example.org"]), Pair::new(&["example.org"]));
    let mixed = load(&mine.cert, &other.key).unwrap_err();
    assert!(mixed.message.contains("does not belong to"), "{mixed}");
}

#[test]
fn files_that_are_no_pair_are_refused_without_showing_them() {
    let good = Pair::new(&["example.org"]);
    let cert = std::fs::read_to_string(&good.cert).unwrap();
    let key = std::fs::read_to_string(&good.key).unwrap();

    fault(&Pair::write("", &key), "holds no certificate");
    fault(&Pair::write(&key, &key), "holds no certificate");
    fault(&Pair::write(&cert.replace("-----END", "----END"), &key), "is broken PEM");
    fault(
        &Pair::write("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", &key),
        "cannot be used",
    );
    fault(&Pair::write(&cert, ""), "holds no private key");
    fault(&Pair::write(&cert, &cert), "holds no private key");
    fault(&Pair::write(&cert, &key.replace("PRIVATE", "ENCRYPTED PRIVATE")), "is encrypted");
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAA=\n-----END RSA PRIVATE KEY-----\n";
    fault(&Pair::write(&cert, old), "is encrypted");
    fault(&Pair::write(&cert, &key.replacen('M', "!", 1)), "is broken PEM");
    let odd = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    fault(&Pair::write(&cert, odd), "holds no key that can be used");

    fault(&Pair::write(&cert, &"-".repeat((1 << 20) + 1)), "is larger than");

    std::fs::remove_file(&good.key).unwrap();
    fault(&good, "cannot be read");
}

/// Accepts any certificate, for these tests look at which one came; but only from whoever has its key.
#[derive(Debug)]
struct AnyName(CryptoProvider);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One handshake; the certificate the client was shown, or why there was none.
async fn shown(identities: &Arc<ServerIdentities>, name: &str) -> std::io::Result<CertificateDer<'static>> {
    let provider = ring::default_provider();
    let server = ServerConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(identities.clone());
    let client = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(provider)))
        .with_no_client_auth();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
    let (server, client) = tokio::join!(acceptor.accept(accepted), connector.connect(name, stream));
    server?;
    let client = client?;
    Ok(client.get_ref().1.peer_certificates().unwrap()[0].clone())
}

#[track_caller]
fn leaf(identity: &Identity) -> CertificateDer<'static> {
    identity.key.cert[0].clone()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let first = identity(&["a.example.org"]);
    let second = identity(&["b.example.org", "*.example.org", "a.example.org"]);
    let third = identity(&["deep.c.example.org", "*.c.example.org"]);
    let identities = Arc::new(ServerIdentities::new(&[first.clone(), second.clone(), third.clone()]));
    for (name, expected) in [
        ("a.example.org", &first),
        ("A.EXAMPLE.org", &first),
        ("b.example.org", &second),
        ("any.example.org", &second),
        ("deep.c.example.org", &third),
        ("any.c.example.org", &third),
        ("c.example.org", &second),
        // A wildcard stands for one label only, and not for none.
        ("two.labels.example.org", &first),
        ("example.org", &first),
        ("unknown.test", &first),
        // An address is no name: such a client sends no SNI.
        ("127.0.0.1", &first),
    ] {
        assert_eq!(shown(&identities, name).await.unwrap(), leaf(expected), "{name}");
    }
}

#[tokio::test]
async fn a_swap_is_seen_by_the_next_handshake() {
    let (old, new) = (identity(&["example.org"]), identity(&["example.org"]));
    let identities = Arc::new(ServerIdentities::new(std::slice::from_ref(&old)));
    assert_eq!(shown(&identities, "example.org").await.unwrap(), leaf(&old));
    identities.swap(std::slice::from_ref(&new));
    assert_eq!(shown(&identities, "example.org").await.unwrap(), leaf(&new));
    identities.swap(&[]);
    assert!(shown(&identities, "example.org").await.is_err());
}
