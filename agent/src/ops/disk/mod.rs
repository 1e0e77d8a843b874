//! Space on disks: what is left, and where it went.

mod asked;
mod tree;
mod usage;

pub(crate) use usage::full_within;
