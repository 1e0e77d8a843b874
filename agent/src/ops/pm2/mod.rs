//! Node applications under PM2.

mod rpc;
mod status;

pub(crate) use status::{home, names};
