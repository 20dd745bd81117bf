//! What calls to AWS need whatever they are for: credentials that stay fresh, and signatures.
//!
//! Knows no platform and no route. A request reads what a background task has fetched; it never fetches.

pub mod credentials;
pub mod iam;
mod keeper;
mod lookup;
pub mod sign;

pub use self::credentials::Credentials;
pub use self::iam::Iam;
pub use self::keeper::Keeper;
pub use self::lookup::{Lookup, Origin, Source};
pub use self::sign::{SigningScope, is_reserved, sign};
