//! Ports at which something listens that may speak HTTP. Whether it does is for people to say: nothing is
//! sent to it.

use std::collections::{BTreeMap, BTreeSet};

use hostler_proto::ops::Listener;

use super::{
    Found,
    system::is_system,
    written::{after, quoted},
};

/// Suggestions that are made.
const MOST: usize = 20;
/// Programs that speak something else.
const OTHERS: [&str; 17] = [
    "sshd",
    "postgres",
    "redis-server",
    "valkey-server",
    "mysqld",
    "mariadbd",
    "beam.smp",
    "epmd",
    "memcached",
    "master",
    "exim4",
    "dnsmasq",
    "named",
    "rpcbind",
    "chronyd",
    "inetd",
    "hostler-agent",
];

/// Who listens at a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// The address, as one calls it from this host.
    address: String,
    /// The program.
    pub(super) command: String,
    /// Its unit.
    pub(super) unit: String,
}

impl Served {
    /// The address to ask, where it speaks HTTP.
    pub(super) fn url(&self, port: u16) -> String {
        let scheme = if [443, 8443].contains(&port) { "https" } else { "http" };
        format!("{scheme}://{}:{port}/", self.address)
    }

    /// One, for tests.
    #[cfg(test)]
    pub(super) fn example(command: &str, unit: &str) -> Self {
        let (address, command) = ("127.0.0.1".to_owned(), command.to_owned());
        Self { address, command, unit: unit.to_owned() }
    }
}

impl Found {
    /// Takes those that may speak HTTP, each port once.
    pub(super) fn served(&mut self, listeners: Vec<Listener>) {
        let port = |address: &String| address.rsplit(':').next()?.parse::<u16>().ok();
        let known: BTreeSet<u16> = self
            .postgres
            .keys()
            .map(|c| c.port)
            .chain(self.redis.keys().filter_map(port))
            .collect();
        for listener in listeners {
            let Listener { protocol, address, port, command, unit, .. } = listener;
            let Ok(port) = u16::try_from(port) else { continue };
            let other =
                OTHERS.contains(&command.as_str()) || is_system(&unit) || is_system(&command);
            if protocol != "tcp" || command.is_empty() || other || known.contains(&port) {
                continue;
            }
            let address = match address.as_str() {
                "0.0.0.0" | "::" => "127.0.0.1".to_owned(),
                ip if ip.contains(':') => format!("[{ip}]"),
                ip => ip.to_owned(),
            };
            self.served.entry(port).or_insert(Served { address, command, unit });
        }
    }
}

/// Lines of a stack file that somebody has to uncomment.
pub(super) fn suggestions(served: &BTreeMap<u16, Served>) -> String {
    if served.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n# Who listens here and may speak HTTP: take away the # where it does, and name a page that works\n\
         # only when all is well.\n",
    );
    let mut names = BTreeSet::new();
    for (port, served) in served.iter().take(MOST) {
        let Served { command, unit, .. } = served;
        let short = unit.strip_suffix(".service").unwrap_or(command);
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let mut name: String = short.chars().map(|c| if fits(c) { c } else { '-' }).collect();
        if !names.insert(name.clone()) {
            name = format!("{name}-{port}");
        }
        let of = if unit.is_empty() { String::new() } else { format!(" of {unit}") };
        let who: String =
            format!("{command}{of}").chars().filter(|c| !c.is_control()).take(100).collect();
        let url = quoted(&served.url(*port));
        let entry = format!("[[http]]\nname = {}\nurl = {url}\n{}", quoted(&name), after(unit));
        text.push_str(&format!("\n# {who} listens on port {port}:\n"));
        entry.lines().for_each(|line| text.push_str(&format!("# {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(port: u32, address: &str, command: &str, unit: &str) -> Listener {
        let (protocol, address) = ("tcp".to_owned(), address.to_owned());
        let (command, unit) = (command.to_owned(), unit.to_owned());
        Listener { protocol, address, port, command, unit, ..Listener::default() }
    }

    #[test]
    fn what_may_speak_http_is_suggested_and_what_does_not_is_left_out() {
        let mut found = Found::default();
        found.redis.insert("127.0.0.1:7000".into(), "cache.service".into());
        found.served(vec![
            listener(22, "0.0.0.0", "sshd", "ssh.service"),
            listener(53, "127.0.0.53", "systemd-resolve", "systemd-resolved.service"),
            listener(7000, "127.0.0.1", "cache", "cache.service"),
            listener(8000, "127.0.0.1", "uvicorn", "omnidoc-backend.service"),
            listener(8000, "::1", "uvicorn", "omnidoc-backend.service"),
            listener(8443, "::1", "uvicorn", "omnidoc-backend.service"),
            listener(9000, "0.0.0.0", "evil\n[[plugin]]", ""),
            Listener { protocol: "udp".into(), ..listener(9001, "0.0.0.0", "x", "") },
        ]);
        let text = found.to_toml();
        let backend = "# uvicorn of omnidoc-backend.service listens on port 8000:\n# [[http]]\n\
                       # name = \"omnidoc-backend\"\n# url = \"http://127.0.0.1:8000/\"\n\
                       # after = [\"unit:omnidoc-backend\"]\n";
        assert!(text.contains(backend), "{text}");
        assert!(
            text.contains("# name = \"omnidoc-backend-8443\"\n# url = \"https://[::1]:8443/\"")
        );
        assert_eq!(text.matches("[[http]]").count(), 3, "{text}");
        // Nothing but comments, whatever somebody calls a program; and without them it can be used.
        assert!(suggestions(&found.served).lines().all(|l| l.is_empty() || l.starts_with("# ")));
        let entries: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| ["[[http]]", "name =", "url ="].iter().any(|s| line.starts_with(s)))
            .collect();
        let stack: crate::stack::Stack = toml::from_str(&entries.join("\n")).expect("a stack file");
        assert_eq!(stack.http.len(), 3);
    }
}
