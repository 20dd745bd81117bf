//! The function gateway.
pub mod downstream;
