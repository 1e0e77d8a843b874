//! nginx.

mod access_report;
mod form;
mod status;
mod test;

pub(crate) use self::{form::understood, test::PROGRAM};
