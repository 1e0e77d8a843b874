//! The operations, one file each: `ops/<domain>/<verb>.rs`.

mod apt;
mod celery;
mod disk;
mod git;
mod host;
mod http;
mod journal;
mod logs;
mod net;
mod nginx;
mod plugin;
mod pm2;
mod postgres;
mod redis;
mod systemd;
