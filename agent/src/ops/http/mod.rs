//! HTTP endpoints, as seen from the host.

mod check;
mod request;
