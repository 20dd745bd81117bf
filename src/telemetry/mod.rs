//! What the gateway tells about itself: metrics, one line per request, and its own log.
//!
//! Knows no platform and no route, only the names it is given. Whatever happens to a sink or a scraper, nothing in here
//! makes a request wait.

mod access_log;
mod counters;
mod line_writer;
mod metrics;
mod route_metrics;
pub mod service_log;

pub use access_log::{AccessLog, Entry, rfc3339};
pub use counters::Held;
pub use line_writer::Sink;
pub use metrics::{Metrics, TEXT_FORMAT, series_bound};
pub use route_metrics::{End, Retry, RouteMetrics};
