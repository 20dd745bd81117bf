//! The built binary as a child process, real origins on loopback, real clients.
//!
//! Every module holds the cases of one part of the contract. Tests share nothing: each starts its own gateway and its
//! own origins on ports of their own, waits for conditions with a deadline and never for time to pass.
#![expect(clippy::unwrap_used, reason = "in a test a failed unwrap is the failed assertion")]

/// The gateway as a child process, the origins behind it, the clients before it.
mod harness;

/// Where the access log goes, and trouble with it.
mod access_log;
mod again;
/// Every answer that is the gateway's own; one log line and one count each.
mod answers;
/// The acceptance cases of the APISIX plugins, and those derived from what they do badly.
mod apisix_aws_lambda;
mod apisix_azure_functions;
mod apisix_derived;
mod apisix_openfunction;
mod apisix_openwhisk;
/// What broke it once, from outside.
mod attack;
/// Lambda's API: events, return values, streams, refusals; against moto and against origins that speak as it does.
mod aws_lambda;
/// Signatures against an AWS that is not ours.
mod aws_moto;
/// Durable Functions: the URLs of an orchestration, there and back.
mod azure_durable;
/// Everything at once, and the account afterwards.
mod chaos;
/// The verbs besides `run`.
mod cli;
/// The command lines that `fngate demo` prints.
mod demo;
/// What the documentation says, held against the code.
mod docs;
/// Answers that come before the end of the request: consent to a body, refusals of one.
mod early;
/// Google's functions framework as a real function server.
mod framework;
/// What platforms say of a call, and what becomes of it.
mod function_errors;
/// gRPC: trailers, and messages one by one.
mod grpc;
/// Malformed and hostile requests, row by row.
mod hardening;
/// HTTP/2 from clients, frame by frame.
mod http2;
/// Services behind an ingress, found by their Host.
mod knative;
/// Too much of something, and who notices.
mod limits;
/// Sockets from the service manager, names from the resolver.
mod machine;
/// Counters, gauges, histograms, and the admin listener.
mod metrics;
/// Functions behind a gateway of their own, called at once or queued.
mod openfaas;
/// What every platform goes through, and what only one can do.
mod platforms;
/// How many connections there are to a function, and what a dead one costs.
mod pool;
/// Answers that pass piece by piece although their requests had to be whole.
mod relay;
/// A new configuration under a running gateway.
mod reload;
/// Many configurations one after another, and faults that come and go.
mod reload_storm;
/// Hosts, paths, methods, suffixes, queries.
mod routing;
/// What must never be seen, searched for in all output.
mod secrets;
/// What a function gets, read back, against what the client asked.
mod sent;
/// Start, readiness, the service manager, the end.
mod shutdown;
/// Bodies piece by piece, 1xx, WebSocket, bodies that break off.
mod streaming;
/// Certificates shown to clients, certificates of functions, HTTP/2.
mod tls;
/// Stop, restart and upgrade while clients go on.
mod upgrade;
/// Bodies that are on their way while somebody else is waited for.
mod uploads;
