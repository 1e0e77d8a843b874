//! The machine itself.

mod disk_io;
mod facts;
mod network_io;
mod processes;
mod resources;
