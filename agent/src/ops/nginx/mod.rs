//! nginx.

mod access_report;
mod status;
mod test;
