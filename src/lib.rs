//! The function gateway.
