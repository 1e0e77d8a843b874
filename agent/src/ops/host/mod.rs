//! The machine itself.

mod diagnose;
mod disk_io;
mod facts;
mod network_io;
mod processes;
mod resources;

pub(crate) use facts::meminfo;
