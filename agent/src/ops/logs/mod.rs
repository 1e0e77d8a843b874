//! Log files.

pub(super) mod backwards;
mod counted;
mod ending;
mod errors;
mod follow;
mod known;
mod packed;
mod scan;
mod tail;
mod template;
mod time;

pub(crate) use ending::{Ended, ending};
