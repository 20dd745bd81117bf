//! `Seal`: keys of an app that have to travel through clients, so that these cannot read, change or use them elsewhere.
//!
//! Nothing is kept: a token holds the key itself, encrypted, and is bound to the place it was given out for.

use std::sync::OnceLock;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{self, SystemRandom};

use crate::diag::Invalid;
use crate::error::GatewayError;
use crate::values::Secret;

/// Boxed, because the key has half a KiB of its own.
#[derive(Debug)]
pub(super) struct Seal(Box<LessSafeKey>);

impl Seal {
    /// Tokens of this seal can be opened by every process that knows the secret, and as long as it stays the same.
    pub(super) fn from_secret(secret: &Secret) -> Self {
        Seal::derive(secret.expose().as_bytes())
    }

    /// Tokens of this seal can be opened as long as this process lives.
    pub(super) fn of_this_process() -> Result<Self, Invalid> {
        static SECRET: OnceLock<[u8; 32]> = OnceLock::new();
        let secret = match SECRET.get() {
            Some(secret) => secret,
            None => {
                let fresh = rand::generate(&SystemRandom::new())
                    .map_err(|_| Invalid::new("the system has no random numbers for a key"))?;
                SECRET.get_or_init(|| fresh.expose())
            }
        };
        Ok(Seal::derive(secret))
    }

    fn derive(secret: &[u8]) -> Self {
        let secret = Salt::new(HKDF_SHA256, b"fngate").extract(secret);
        let key = secret.expand(&[b"azure_functions durable code"], &CHACHA20_POLY1305);
        let key = UnboundKey::from(key.expect("a key is shorter than HKDF's limit"));
        Seal(Box::new(LessSafeKey::new(key)))
    }

    /// A token for `text` that opens only in the same place. It has nothing in it that a URL would escape.
    pub(super) fn close(&self, text: &str, place: &[u8]) -> Result<String, GatewayError> {
        let nonce: [u8; NONCE_LEN] =
            rand::generate(&SystemRandom::new()).map_err(|_| GatewayError::Internal)?.expose();
        let mut sealed = text.as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
            .map_err(|_| GatewayError::Internal)?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// What was sealed; `None` for whatever this seal has not closed for this place.
    pub(super) fn open(&self, token: &str, place: &[u8]) -> Option<String> {
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>()?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let text = self.0.open_in_place(nonce, Aad::from(place), sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &str) -> Seal {
        Seal::from_secret(&Secret::new(secret.to_owned()))
    }

    #[test]
    fn a_token_opens_in_its_place_only() {
        let token = seal("a").close("key==", b"here").unwrap();
        assert_eq!(seal("a").open(&token, b"here").as_deref(), Some("key=="));
        assert_eq!(seal("a").open(&token, b"there"), None);
        assert_eq!(seal("b").open(&token, b"here"), None);
        let process = Seal::of_this_process().unwrap();
        assert_eq!(process.open(&token, b"here"), None);
        let token = process.close("key==", b"here").unwrap();
        assert_eq!(Seal::of_this_process().unwrap().open(&token, b"here").as_deref(), Some("key=="));
    }

    #[test]
    fn no_change_to_a_token_goes_unnoticed() {
        let seal = seal("a");
        let token = seal.close("key", b"here").unwrap();
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
        for place in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(std::str::from_utf8(&forged).unwrap(), b"here"), None, "{place}");
        }
        for text in ["", "A", "key", "%", &token[1..], &token[..token.len() - 1], &format!("{token}A")] {
            assert_eq!(seal.open(text, b"here"), None, "{text}");
        }
    }

    #[test]
    fn two_tokens_for_the_same_key_have_nothing_in_common() {
        let seal = seal("a");
        assert_ne!(seal.close("key", b"here").unwrap(), seal.close("key", b"here").unwrap());
    }
}
