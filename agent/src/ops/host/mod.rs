//! The machine itself.

mod clues;
mod diagnose;
mod disk_io;
mod facts;
mod network_io;
mod processes;
mod resources;
