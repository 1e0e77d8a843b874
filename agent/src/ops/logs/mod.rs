//! Log files.

mod backwards;
mod follow;
mod tail;
