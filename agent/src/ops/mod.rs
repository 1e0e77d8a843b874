//! The operations, one file each: `ops/<domain>/<verb>.rs`.

mod apt;
pub(crate) mod celery;
mod disk;
mod git;
mod home;
mod host;
pub(crate) mod http;
mod journal;
mod logs;
pub(crate) mod net;
pub(crate) mod nginx;
mod pip;
mod plugin;
pub(crate) mod pm2;
mod pnpm;
mod postgres;
mod redis;
pub(crate) mod systemd;
mod versions;
