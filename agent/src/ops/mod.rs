//! The operations, one file each: `ops/<domain>/<verb>.rs`.

mod celery;
mod disk;
mod host;
mod http;
mod journal;
mod logs;
mod net;
mod plugin;
mod redis;
mod systemd;
