//! Debian packages.

mod upgradable;
