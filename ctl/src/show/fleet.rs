//! Hosts, tokens and operators as tables.

use std::collections::HashMap;

use hostler_proto::wire::{Connection, HostRecord, OperatorRecord, Role, TokenRecord};

use super::{
    grid::{Cell, grid, pairs},
    value,
};
use crate::screen::Traits;

/// The state of a host's link, as selectors know it.
pub fn link(connection: Connection) -> &'static str {
    match connection {
        Connection::Unspecified => "unknown",
        Connection::Never => "never",
        Connection::Up => "up",
        Connection::Down => "down",
        Connection::Revoked => "revoked",
        Connection::Unreachable => "unreachable",
        Connection::Stopped => "stopped",
    }
}

/// A role by the word that people type.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "none",
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

fn words(map: &HashMap<String, String>) -> String {
    let mut words: Vec<_> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
    words.sort_unstable();
    words.join(",")
}

/// The hosts: those that are not connected first, then by name.
pub fn hosts(hosts: &[HostRecord], now_us: i64, wide: bool, traits: Traits) -> String {
    let mut sorted: Vec<_> = hosts.iter().collect();
    let rank = |h: &HostRecord| match h.connection() {
        Connection::Down | Connection::Unreachable => 0,
        Connection::Unspecified | Connection::Never | Connection::Stopped => 1,
        Connection::Up => 2,
        Connection::Revoked => 3,
    };
    sorted.sort_by(|a, b| (rank(a), &a.name).cmp(&(rank(b), &b.name)));
    let mut headers = vec!["HOST", "LINK", "FOR", "AGENT", "LABELS", "REASON"];
    if wide {
        headers.extend(["ADDRESS", "LAST SEEN", "ENROLLED", "CERTIFICATE UNTIL", "MACHINE"]);
    }
    let row = |h: &&HostRecord| {
        let mut row = vec![
            Cell::text(&h.name),
            Cell::word(link(h.connection())),
            Cell::text(value::ago(h.since_us, now_us)),
            Cell::text(&h.agent_version),
            Cell::text(words(&h.labels)),
            Cell::text(&h.reason),
        ];
        if wide {
            row.extend([
                Cell::text(&h.address),
                Cell::text(value::moment(h.last_seen_us)),
                Cell::text(value::moment(h.enrolled_us)),
                Cell::text(value::moment(h.certificate_until_us)),
                Cell::text(&h.machine_id),
            ]);
        }
        row
    };
    grid(&headers, &sorted.iter().map(row).collect::<Vec<_>>(), traits)
}

/// Everything about one host.
pub fn host(host: &HostRecord, now_us: i64, traits: Traits) -> String {
    let since = match host.since_us {
        0 => String::new(),
        us => format!("{} (for {})", value::moment(us), value::ago(us, now_us)),
    };
    let mut found = vec![
        ("host".to_owned(), Cell::text(&host.name)),
        ("link".to_owned(), Cell::word(link(host.connection()))),
        ("since".to_owned(), Cell::text(since)),
        ("reason".to_owned(), Cell::text(&host.reason)),
        ("labels".to_owned(), Cell::text(words(&host.labels))),
        ("agent".to_owned(), Cell::text(&host.agent_version)),
        ("address".to_owned(), Cell::text(&host.address)),
        ("last seen".to_owned(), Cell::text(value::moment(host.last_seen_us))),
        ("enrolled".to_owned(), Cell::text(value::moment(host.enrolled_us))),
        ("certificate until".to_owned(), Cell::text(value::moment(host.certificate_until_us))),
        ("machine".to_owned(), Cell::text(&host.machine_id)),
        ("operations".to_owned(), Cell::text(host.operations.join(", "))),
    ];
    let mut facts: Vec<_> = host.facts.iter().collect();
    facts.sort_unstable();
    found.extend(facts.into_iter().map(|(name, fact)| (name.replace('_', " "), Cell::text(fact))));
    found.retain(|(_, cell)| !cell.text.is_empty());
    pairs(&found, traits)
}

/// Enrolment tokens that may still be used.
pub fn tokens(tokens: &[TokenRecord], now_us: i64, traits: Traits) -> String {
    let row = |t: &TokenRecord| {
        let left = t.expires_us.saturating_sub(now_us);
        vec![
            Cell::text(&t.id),
            Cell::text(if t.host.is_empty() { "(any)" } else { &t.host }),
            Cell::text(words(&t.labels)),
            Cell::number(t.uses_left.to_string()),
            Cell::text(if left > 0 {
                value::duration(value::seconds(left))
            } else {
                "ended".into()
            }),
            Cell::text(&t.created_by),
            Cell::text(if t.replace { "may replace" } else { "" }),
        ]
    };
    let headers = ["ID", "HOST", "LABELS", "USES LEFT", "LEFT", "MADE BY", "NOTE"];
    grid(&headers, &tokens.iter().map(row).collect::<Vec<_>>(), traits)
}

/// Operators and what they may do.
pub fn operators(operators: &[OperatorRecord], traits: Traits) -> String {
    let row = |o: &OperatorRecord| {
        vec![
            Cell::text(&o.name),
            Cell::text(role(o.role())),
            Cell::text(if o.on.is_empty() { "all" } else { &o.on }),
            Cell::text(if o.operations.is_empty() { "all" } else { &o.operations }),
            Cell::text(value::moment(o.certificate_until_us)),
            Cell::word(if o.revoked { "revoked" } else { "" }),
        ]
    };
    let headers = ["NAME", "ROLE", "ON", "OPERATIONS", "CERTIFICATE UNTIL", "STATE"];
    grid(&headers, &operators.iter().map(row).collect::<Vec<_>>(), traits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_774_742_400_000_000;

    #[test]
    fn hosts_that_are_not_connected_come_first() {
        let host = |name: &str, connection: Connection, reason: &str| HostRecord {
            name: name.into(),
            connection: connection.into(),
            since_us: NOW - 7_500_000_000,
            reason: reason.into(),
            labels: [("role".into(), "web".into())].into(),
            agent_version: "0.1.0".into(),
            ..HostRecord::default()
        };
        let list = [
            host("web-1", Connection::Up, ""),
            host("web-2", Connection::Down, "no answer for 28 s"),
            host("db-1", Connection::Up, ""),
        ];
        insta::assert_snapshot!(hosts(&list, NOW, false, Traits::default()));
        insta::assert_snapshot!(super::host(&list[1], NOW, Traits::default()));
    }

    #[test]
    fn operators_and_tokens_are_listed_with_what_they_allow() {
        let operator = OperatorRecord {
            name: "alice".into(),
            role: Role::Operator.into(),
            on: "role=web".into(),
            certificate_until_us: NOW,
            ..OperatorRecord::default()
        };
        insta::assert_snapshot!(operators(&[operator], Traits::default()));
        let token = TokenRecord {
            id: "t1".into(),
            expires_us: NOW + 3_600_000_000,
            uses_left: 3,
            created_by: "alice".into(),
            ..TokenRecord::default()
        };
        insta::assert_snapshot!(tokens(&[token], NOW, Traits::default()));
    }
}
