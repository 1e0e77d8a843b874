//! Front ends whose packages pnpm installs.

mod outdated;
