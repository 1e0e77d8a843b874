//! Where a cluster of PostgreSQL takes connections, as its own postmaster.pid says.

use std::{collections::BTreeSet, path::Path};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::host::files;

/// What of a path is written otherwise in a parameter of a URL.
const WRITTEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-');

/// Where a cluster takes connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cluster {
    /// Its port, which its sockets have in their names.
    pub(super) port: u16,
    /// The first address at which it listens: "*" is all of them; empty where it has sockets only.
    pub(super) address: String,
    /// The first directory in which it has a socket; empty where it has none.
    pub(super) socket: String,
}

impl Cluster {
    /// The cluster that a process serves which works in a directory, from the first, fourth, fifth and sixth
    /// line of postmaster.pid there.
    pub(super) fn of(data: &Path, pid: u32) -> Option<Self> {
        let text = String::from_utf8(files::small(&data.join("postmaster.pid")).ok()?).ok()?;
        let mut lines = text.lines().map(str::trim);
        // Any process can be called so, wherever it works.
        if lines.next()?.parse() != Ok(pid) {
            return None;
        }
        let mut lines = lines.skip(2);
        let (port, socket) = (lines.next()?.parse().ok()?, lines.next()?.to_owned());
        // What is no host would make something else of a URL.
        let host = |c: char| c.is_ascii_alphanumeric() || "*.:-_".contains(c);
        let address = lines.next().filter(|address| address.chars().all(host));
        let address = address.unwrap_or_default().to_owned();
        let reached = !address.is_empty() || !socket.is_empty();
        reached.then_some(Self { port, address, socket })
    }

    /// How the agent reaches a database of it.
    pub(super) fn url(&self, database: &str) -> String {
        let Self { port, address, socket } = self;
        let host = match address.as_str() {
            "" => {
                let socket = utf8_percent_encode(socket, WRITTEN);
                return format!(
                    "postgres://hostler@localhost/{database}?host={socket}&port={port}"
                );
            }
            "*" | "0.0.0.0" | "localhost" => "127.0.0.1".to_owned(),
            "::" => "[::1]".to_owned(),
            ip if ip.contains(':') => format!("[{ip}]"),
            name => name.to_owned(),
        };
        format!("postgres://hostler@{host}:{port}/{database}")
    }
}

/// Clusters with their names: the only one is "main", others are called by their ports.
pub(super) fn named<'c, T>(
    clusters: impl ExactSizeIterator<Item = (&'c Cluster, T)>,
) -> impl Iterator<Item = (String, &'c Cluster, T)> {
    let only = clusters.len() == 1;
    let mut names = BTreeSet::new();
    clusters.map(move |(cluster, of)| {
        let name = if only { "main".to_owned() } else { format!("p{}", cluster.port) };
        // Clusters at different addresses may have one port.
        let again = (2..).map(|n| format!("{name}-{n}"));
        let mut free = [name.clone()].into_iter().chain(again);
        let name = free.find(|name| !names.contains(name)).unwrap_or(name);
        names.insert(name.clone());
        (name, cluster, of)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::postgres;

    #[test]
    fn a_cluster_is_known_by_what_the_directory_in_which_its_server_works_says_of_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let of = |pid| Cluster::of(directory.path(), pid);
        assert_eq!(of(7), None, "no data");
        let says = |socket: &str, address: &str| {
            let said = format!("7\n/srv/data\n1732\n5433\n{socket}\n{address}\n  5432001   3\n");
            std::fs::write(directory.path().join("postmaster.pid"), said).expect("written");
        };
        let cluster = |socket: &str, address: &str| {
            let (socket, address) = (socket.to_owned(), address.to_owned());
            Some(Cluster { port: 5433, address, socket })
        };
        says("/run/postgresql", "127.9.1.1");
        assert_eq!(of(7), cluster("/run/postgresql", "127.9.1.1"));
        assert_eq!(of(8), None, "another process that works there");
        says("/run/postgresql", "");
        assert_eq!(of(7), cluster("/run/postgresql", ""));
        says("/run/postgresql", "u:p@elsewhere/x?");
        assert_eq!(of(7), cluster("/run/postgresql", ""), "no host");
        says("", "");
        assert_eq!(of(7), None, "nobody can connect to it");
    }

    #[test]
    fn a_cluster_is_reached_where_it_listens() {
        let socket = "/srv/my app&x=1";
        for (address, expected) in [
            ("*", "127.0.0.1:5433"),
            ("0.0.0.0", "127.0.0.1:5433"),
            ("::", "[::1]:5433"),
            ("localhost", "127.0.0.1:5433"),
            ("127.9.1.1", "127.9.1.1:5433"),
            ("fd00::7", "[fd00::7]:5433"),
            ("", "/srv/my app&x=1/.s.PGSQL.5433"),
        ] {
            let (address, socket) = (address.to_owned(), socket.to_owned());
            let url = Cluster { port: 5433, address, socket }.url("app");
            let options = postgres::options(&url).expect(&url);
            assert_eq!(postgres::place_of(&options).to_string(), expected, "{url}");
            assert_eq!(options.get_database(), Some("app"), "{url}");
        }
    }
}
