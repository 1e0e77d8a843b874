//! Log files.

pub(super) mod backwards;
mod errors;
mod follow;
mod scan;
mod tail;
mod template;
