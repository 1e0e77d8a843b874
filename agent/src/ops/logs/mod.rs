//! Log files.

pub(super) mod backwards;
mod counted;
mod errors;
mod follow;
mod packed;
mod scan;
mod tail;
mod template;
mod time;
