//! Validated scalars, and the forms in which a file may write them.
//!
//! A value of a type from here is valid by construction. The `Raw…` forms mirror what stands in the file and are turned into
//! values by `parse` functions whose error is the text for the operator.

mod address;
mod secret;
mod wildcard;
mod written;

pub use self::address::{HostPort, Scheme, TargetUri, is_host_name};
pub use self::secret::{RawSecret, Secret, credential_identity};
pub use self::wildcard::Wildcard;
pub use self::written::{ByteSize, Written, compile_duration, parse_duration, parse_size};
