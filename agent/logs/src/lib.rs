//! What log files say: their errors by kind of message, and the times of their lines. It reads what it is
//! given; which files those are, who may see them and what is bad about it is the agent's to say. A crate of
//! its own, since it is the part of the agent that goes through gigabytes: it is compiled for speed, and
//! everything else to be small.

mod counted;
mod scan;
mod template;
mod time;

pub use counted::{Counted, Hour, KINDS, Kind, Moment};
pub use scan::scan;
pub use time::{Time, Times};
