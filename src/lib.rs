//! fngate, the function gateway: a reverse proxy in front of serverless functions.
//!
//! The modules stand in the order in which a reader needs them: scalars and faults first, then what a route is made of, then
//! the gateway, then the program around it. `ARCHITECTURE.md` has the map.

pub mod backoff;
pub mod diag;
pub mod error;
pub mod secrets;
pub mod uri;
pub mod values;

pub mod aws;
pub mod downstream;
pub mod telemetry;
pub mod tls;
pub mod upstream;

pub mod platforms;
pub mod policy;
pub mod routing;

pub mod function;
pub mod snapshot;

pub mod config;

pub mod gateway;

pub mod admin;
pub mod app;
pub mod cli;
pub mod demo;
pub mod listen;
pub mod reload;
pub mod upgrade;
