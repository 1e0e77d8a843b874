//! The systemd journal, through journalctl's JSON form: the library that reads journal files has no
//! counterpart that could be linked statically.

mod entry;
mod read;
mod source;

pub(crate) use entry::Spoken;
pub(crate) use source::{last_lines, last_spoken};
