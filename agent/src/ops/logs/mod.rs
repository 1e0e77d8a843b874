//! Log files.

pub(super) mod backwards;
mod ending;
mod errors;
mod follow;
mod known;
mod packed;
mod tail;
mod zones;

pub(crate) use ending::{Ended, ending};
