//! Python environments.

mod outdated;
