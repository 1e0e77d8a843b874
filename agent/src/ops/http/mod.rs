//! HTTP endpoints, as seen from the host.

mod check;
pub(super) mod request;
