//! The URL of a PostgreSQL server, as the library reads it.

use std::{path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

use crate::host::{
    files,
    query::{meant, parameters},
};

/// Parameters that the library reads, beside `options[SETTING]`. Of all others it would write the values
/// into the log, each time.
const READ: [&str; 11] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-mode",
    "sslmode",
    "statement-cache-capacity",
    "user",
];
/// Those of them that name files.
const FILES: [&str; 7] =
    ["ssl-ca", "ssl-cert", "ssl-key", "ssl-root-cert", "sslcert", "sslkey", "sslrootcert"];

/// What a URL says, as the library reads it. That takes no user before an empty host, as there is one in
/// `postgres://USER@/DATABASE?host=/run/postgresql`.
///
/// # Errors
/// When it is none.
pub fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    PgConnectOptions::from_str(&read(&user_last(url)))
}

/// The names of parameters that nobody reads.
pub fn unread(url: &str) -> Vec<String> {
    parameters(url).map(|(name, _)| name).filter(|name| !is_read(name)).collect()
}

/// A URL without them.
fn read(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let place = url.split('?').next().unwrap_or_default();
    let read = parameters(url).filter(|(name, _)| is_read(name)).map(|(_, pair)| pair);
    format!("{place}?{}", read.collect::<Vec<_>>().join("&"))
}

fn is_read(name: &str) -> bool {
    READ.contains(&name) || FILES.contains(&name) || name.starts_with("options[")
}

/// The files that a URL names, with the names of the parameters.
pub fn named_files(url: &str) -> impl Iterator<Item = (String, PathBuf)> {
    let files = parameters(url).filter(|(name, _)| FILES.contains(&name.as_str()));
    files.filter_map(|(name, pair)| {
        let path = meant(pair.split_once('=').map_or("", |(_, value)| value));
        // What is in it may stand there itself.
        (!path.starts_with("-----")).then(|| (name, path.into()))
    })
}

/// Why a file that a URL names cannot be read, where one can not.
pub(super) async fn unreadable(url: &str) -> Option<String> {
    for (_, path) in named_files(url) {
        if let Err(why) = files::of_stack(&path).await {
            return Some(why);
        }
    }
    None
}

/// A user before an empty host becomes a parameter.
fn user_last(url: &str) -> String {
    let parts = url.split_once("://").and_then(|(scheme, rest)| {
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        Some((scheme, authority.strip_suffix('@')?, rest.split('#').next()?))
    });
    let Some((scheme, user, rest)) = parts else { return url.to_owned() };
    // In a parameter these two mean something else.
    let plain = |text: &str| text.replace('+', "%2B").replace('&', "%26");
    let joint = if rest.contains('?') { '&' } else { '?' };
    match user.split_once(':') {
        None => format!("{scheme}://{rest}{joint}user={}", plain(user)),
        Some((user, password)) => {
            let (user, password) = (plain(user), plain(password));
            format!("{scheme}://{rest}{joint}user={user}&password={password}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_nobody_reads_are_named_and_the_library_never_sees_them() {
        let url = "postgres://u@127.0.0.1/db?connect_timeout=hunter2&sslmode=require&x%20y=hunter2\
                   &options%5Bsearch_path%5D=app&application_name=a#sslrootcert=b";
        assert_eq!(unread(url), ["connect_timeout", "x y"]);
        let kept = "postgres://u@127.0.0.1/db?sslmode=require&options%5Bsearch_path%5D=app\
                    &application_name=a";
        assert_eq!(read(url), kept);
        let read = options(url).expect(url);
        assert_eq!(read.get_options(), Some("-c search_path=app"));
        assert_eq!(unread("postgres://u@/db?host=/run/x&port=7&dbname=d"), [""; 0]);
    }

    #[test]
    fn a_user_before_an_empty_host_is_read_as_it_is_meant() {
        for (url, user, socket, port) in [
            ("postgres://u@/db?host=/run/x", "u", Some("/run/x"), 5432),
            ("postgres://u%2B1+2@/db?host=/run/x&port=7", "u+1+2", Some("/run/x"), 7),
            ("postgres://u@/?host=/run/x", "u", Some("/run/x"), 5432),
            ("postgres://u:a%26b@?host=/run/x", "u", Some("/run/x"), 5432),
            ("postgres://u@127.0.0.1:7/db", "u", None, 7),
        ] {
            let read = options(url).expect(url);
            let at = read.get_socket().map(|path| path.display().to_string());
            assert_eq!(
                (read.get_username(), at.as_deref(), read.get_port()),
                (user, socket, port),
                "{url}"
            );
        }
        assert!(options("postgres://u@127.0.0.1:x/db").is_err());
    }
}
