//! Programs that check, as Nagios knows them.

mod output;
mod run;
