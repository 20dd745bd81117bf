//! The function gateway.

pub mod demo;
