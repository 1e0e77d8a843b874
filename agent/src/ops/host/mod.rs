//! The machine itself.

mod facts;
mod processes;
mod resources;
