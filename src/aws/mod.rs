//! What calls to AWS need whatever they are for: credentials, and signatures.
//!
//! Knows no platform and no route.

pub mod credentials;
pub mod sign;

pub use self::credentials::Credentials;
pub use self::sign::{SigningScope, sign, strip_reserved};
