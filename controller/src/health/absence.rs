//! Why hosts are away, and where those were that came back. Pure.
//!
//! One silent host looks the same to its controller whether it is down or cut off. Its neighbours tell:
//! when all hosts of a place fell silent together, it is the way to them that is gone.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hostler_proto::{
    name::HostName,
    wire::{self, hello_reply::Ending},
};

use super::{Host, Left};
use crate::store::{Connection, HostRow};

/// Hosts that fall silent within this time did so for one reason. More than twice the time after
/// which a silent peer counts as dead.
const TOGETHER_US: i64 = 120_000_000;
/// Agents come back within this time after the start of a controller.
pub const RETURN_US: i64 = 180_000_000;
/// A host that said that it goes down is not called down for so long: most boot anew.
pub const GOING_DOWN_US: i64 = 300_000_000;
/// The label that names a host's place. Without it the network of its address is its place.
const SITE: &str = "site";
/// The label that names the host through which a host is reached.
const VIA: &str = "via";

/// How a link was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The host's kernel closed it: it lived when its agent ended.
    Closed,
    /// Nothing came any more.
    Silent,
    /// It broke in another way: a host that booted at once says so, and so does a firewall.
    Broken,
    /// This controller cut it.
    Cut,
    /// This controller ended.
    Restart,
}

impl Lost {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Silent, Self::Broken, Self::Cut, Self::Restart];

    /// The word under which it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Cut => "cut",
            Self::Restart => "restart",
        }
    }
}

/// Why a host is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// Its agent said that it was being stopped.
    Stopped,
    /// It said that it is being shut down or booted anew, a moment ago.
    GoingDown,
    /// It said so, and is not back.
    ShutDown,
    /// Its agent ended without a word, on a host that lived.
    AgentDied,
    /// It alone fell silent.
    Down,
    /// All hosts of its place fell silent together.
    Place(String),
    /// The host through which it is reached is away.
    Via(HostName),
    /// The controller started a moment ago.
    Returning,
    /// It was not there when the controller was started, and is not back: how it went nobody saw. The place,
    /// where that is so of all hosts there.
    Missing(Option<String>),
}

impl Absence {
    /// The state that selectors know, where it says more than that the host is down.
    pub fn state(&self) -> Option<&'static str> {
        match self {
            Self::Stopped | Self::GoingDown => Some("stopped"),
            Self::Place(_) | Self::Via(_) => Some("unreachable"),
            Self::ShutDown | Self::AgentDied | Self::Down | Self::Returning | Self::Missing(_) => {
                None
            }
        }
    }
}

/// The state of a host's link, as people are told it.
pub fn connection(host: &HostRow, absence: Option<&Absence>) -> wire::Connection {
    match absence {
        Some(Absence::Stopped | Absence::GoingDown) => wire::Connection::Stopped,
        Some(Absence::Place(_) | Absence::Via(_)) => wire::Connection::Unreachable,
        _ => host.connection.into(),
    }
}

/// Why each host that was linked and is not is away.
pub fn absences(
    hosts: &[Arc<HostRow>],
    health: &HashMap<HostName, Host>,
    now_us: i64,
) -> HashMap<HostName, Absence> {
    // Most of the time all are there.
    if !hosts.iter().any(|host| host.connection == Connection::Down) {
        return HashMap::new();
    }
    let left = |host: &HostRow| health.get(&host.name).map_or(Left::No, |h| h.left);
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let mut by_name = HashMap::new();
    for host in hosts {
        by_name.insert(&host.name, host);
        let Some(place) = place(host) else { continue };
        let of = places.entry(place).or_default();
        of.up |= host.connection == Connection::Up;
        let away = host.connection == Connection::Down && left(host) == Left::No;
        match host.lost {
            // That they were away when the controller was started says nothing of when they went.
            Some(Lost::Restart) if away && !returning(host, now_us) => of.missing += 1,
            Some(Lost::Silent | Lost::Broken) if away => of.silent.push(host.since_us),
            _ => {}
        }
    }
    let why = |host: &HostRow| -> Absence {
        match left(host) {
            Left::Agent => return Absence::Stopped,
            Left::Host if now_us - host.since_us < GOING_DOWN_US => return Absence::GoingDown,
            Left::Host => return Absence::ShutDown,
            Left::No => {}
        }
        if returning(host, now_us) {
            return Absence::Returning;
        }
        match host.lost {
            Some(Lost::Closed) => return Absence::AgentDied,
            Some(Lost::Cut) | None => return Absence::Down,
            Some(Lost::Silent | Lost::Broken | Lost::Restart) => {}
        }
        let via = host.labels.get(VIA).and_then(|name| name.parse::<HostName>().ok());
        if let Some(via) = via.and_then(|via| by_name.get(&via))
            && via.connection == Connection::Down
            && via.name != host.name
            && (silent(via) || left(via) == Left::Host)
        {
            return Absence::Via(via.name.clone());
        }
        let place = place(host);
        let of = place.as_ref().and_then(|name| places.get(name));
        match host.lost {
            Some(Lost::Restart) => {
                Absence::Missing(place.filter(|_| of.is_some_and(|p| !p.up && p.missing > 1)))
            }
            _ => match place {
                Some(name) if of.is_some_and(|p| p.gone_with(host)) => Absence::Place(name),
                _ => Absence::Down,
            },
        }
    };
    let away = hosts.iter().filter(|h| h.connection == Connection::Down);
    away.map(|host| (host.name.clone(), why(host))).collect()
}

/// What is known of a place.
#[derive(Debug, Default)]
struct Place {
    up: bool,
    /// When its hosts fell silent.
    silent: Vec<i64>,
    /// Those that are not back since the controller was started.
    missing: usize,
}

impl Place {
    fn gone_with(&self, host: &HostRow) -> bool {
        let together = |at: &&i64| (*at - host.since_us).abs() <= TOGETHER_US;
        !self.up && self.silent.iter().filter(together).count() > 1
    }
}

fn silent(host: &HostRow) -> bool {
    matches!(host.lost, Some(Lost::Silent | Lost::Broken | Lost::Restart))
}

fn returning(host: &HostRow, now_us: i64) -> bool {
    host.lost == Some(Lost::Restart) && now_us - host.since_us < RETURN_US
}

/// Where a host is: its label, or the network of its address, /24 or /64.
fn place(host: &HostRow) -> Option<String> {
    if let Some(site) = host.labels.get(SITE) {
        return Some(format!("site {site}"));
    }
    let address: SocketAddr = host.address.parse().ok()?;
    Some(match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    })
}

/// What an agent told of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told<'a> {
    /// Changes with every boot of its host.
    pub boot_id: &'a str,
    /// Changes with every start of its process.
    pub instance: &'a str,
}

/// Where a host was that is back, in one sentence; none when that cannot be told. How its agent ended
/// counts where nobody was told of it before.
pub fn returned(
    lost: Option<Lost>,
    before: Told<'_>,
    now: Told<'_>,
    ending: Ending,
) -> Option<String> {
    if before.boot_id.is_empty() {
        return None;
    }
    let booted = before.boot_id != now.boot_id;
    if !booted && before.instance == now.instance {
        let alive = matches!(lost, Some(Lost::Silent | Lost::Broken | Lost::Closed));
        let said = "it is back; it was only unreachable: its agent ran all the time";
        return alive.then(|| said.to_owned());
    }
    let said = match (booted, lost == Some(Lost::Restart)) {
        (true, true) => "it was down while there was no controller: it booted",
        (true, false) => "it is back; it was down: it booted meanwhile",
        (false, true) => "its agent was started anew while there was no controller",
        (false, false) => "it is back; its agent was started anew, the host ran all the time",
    };
    let why = match ending {
        Ending::Unspecified => "",
        Ending::HostStopped if booted => "; it had been shut down or booted anew on purpose",
        Ending::Stopped | Ending::HostStopped => "; the agent had been stopped on purpose",
        Ending::Sudden if booted => "; it had ended without saying so: it crashed or lost power",
        Ending::Sudden => "; the agent had ended without saying so: it was killed or crashed",
    };
    Some(format!("{said}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000_000;
    const SECOND: i64 = 1_000_000;

    fn row(name: &str, address: &str, lost: Option<Lost>, since_s: i64) -> HostRow {
        let connection = if lost.is_some() { Connection::Down } else { Connection::Up };
        HostRow {
            name: name.parse().expect("name"),
            connection,
            lost,
            since_us: NOW + since_s * SECOND,
            address: format!("{address}:4711"),
            ..HostRow::nobody()
        }
    }

    fn labelled(mut host: HostRow, key: &str, value: &str) -> HostRow {
        host.labels.insert(key.into(), value.into());
        host
    }

    fn seen(hosts: Vec<HostRow>, left: &[&str]) -> BTreeMap<String, Absence> {
        let gone = |name: &str| Host {
            left: if name.starts_with("off") { Left::Host } else { Left::Agent },
            ..Host::default()
        };
        let health = left.iter().map(|n| (n.parse().expect("name"), gone(n))).collect();
        let hosts: Vec<_> = hosts.into_iter().map(Arc::new).collect();
        let all = absences(&hosts, &health, NOW + 600 * SECOND);
        all.into_iter().map(|(name, absence)| (name.to_string(), absence)).collect()
    }

    #[test]
    fn a_place_whose_hosts_fell_silent_together_is_unreachable_and_a_single_host_is_down() {
        let silent = Some(Lost::Silent);
        let all = seen(
            vec![
                row("a-1", "10.0.1.1", silent, 0),
                row("a-2", "10.0.1.2", silent, 20),
                row("b-1", "10.0.2.1", silent, 0),
                row("b-2", "10.0.2.2", None, 0),
                row("b-3", "10.0.2.3", silent, 5),
                row("c-1", "10.0.3.1", silent, 0),
            ],
            &[],
        );
        let place = || Absence::Place("10.0.1.0/24".into());
        assert_eq!((&all["a-1"], &all["a-2"]), (&place(), &place()));
        assert_eq!(all["b-1"], Absence::Down, "a neighbour is up");
        assert_eq!(all["c-1"], Absence::Down, "nobody else is there to tell");
    }

    #[test]
    fn one_that_was_down_long_before_its_place_went_is_down() {
        let silent = Some(Lost::Silent);
        let hosts = [("old", -9_000), ("one", 0), ("two", 60)];
        let host =
            |(name, at): (&str, i64)| labelled(row(name, "10.0.0.1", silent, at), "site", "paris");
        let all = seen(hosts.map(host).to_vec(), &[]);
        assert_eq!(all["old"], Absence::Down);
        assert_eq!(all["two"], Absence::Place("site paris".into()));
    }

    #[test]
    fn a_host_behind_one_that_is_away_is_unreachable() {
        let behind = |name, lost, at| labelled(row(name, "10.0.9.9", lost, at), "via", "gateway");
        let all = seen(
            vec![
                row("gateway", "10.0.0.1", Some(Lost::Silent), 0),
                row("other", "10.0.0.2", None, 0),
                behind("inner", Some(Lost::Silent), 9),
                behind("dead", Some(Lost::Closed), 9),
            ],
            &[],
        );
        assert_eq!(all["gateway"], Absence::Down);
        assert_eq!(all["inner"], Absence::Via("gateway".parse().expect("name")));
        assert_eq!(all["dead"], Absence::AgentDied, "its kernel told so itself");
        let off = row("off-gw", "10.0.0.1", Some(Lost::Closed), 0);
        let inner = labelled(row("inner", "10.0.9.9", Some(Lost::Silent), 9), "via", "off-gw");
        let all = seen(vec![off, inner], &["off-gw"]);
        assert_eq!(all["inner"], Absence::Via("off-gw".parse().expect("name")));
    }

    #[test]
    fn what_was_stopped_is_not_down_and_after_a_start_of_the_controller_hosts_get_time() {
        let all = seen(
            vec![
                row("stopped", "10.0.0.1", Some(Lost::Closed), 0),
                row("late", "10.0.1.1", Some(Lost::Restart), 500),
                row("missing", "10.0.2.1", Some(Lost::Restart), 0),
                row("off-1", "10.0.3.1", Some(Lost::Closed), 500),
                row("off-2", "10.0.4.1", Some(Lost::Closed), 0),
            ],
            &["stopped", "off-1", "off-2"],
        );
        assert_eq!((&all["off-1"], &all["off-2"]), (&Absence::GoingDown, &Absence::ShutDown));
        assert_eq!(all["stopped"], Absence::Stopped);
        assert_eq!(all["late"], Absence::Returning);
        assert_eq!(all["missing"], Absence::Missing(None), "how it went nobody saw");
    }

    #[test]
    fn hosts_that_a_start_of_the_controller_missed_are_no_proof_that_their_place_fell_silent() {
        let restart = Some(Lost::Restart);
        let all = seen(
            vec![
                row("a-1", "10.0.1.1", restart, 0),
                row("a-2", "10.0.1.2", restart, 0),
                row("b-1", "10.0.2.1", restart, 0),
                row("b-2", "10.0.2.2", restart, 0),
                row("b-3", "10.0.2.3", None, 0),
                row("c-1", "10.0.3.1", restart, 0),
                row("c-2", "10.0.3.2", Some(Lost::Silent), 0),
            ],
            &[],
        );
        assert_eq!(all["a-1"], Absence::Missing(Some("10.0.1.0/24".into())));
        assert_eq!(all["a-2"], all["a-1"]);
        assert_eq!((&all["a-1"].state(), &all["b-1"]), (&None, &Absence::Missing(None)));
        assert_eq!((&all["c-1"], &all["c-2"]), (&Absence::Missing(None), &Absence::Down));
    }

    #[test]
    fn one_that_comes_back_tells_where_it_was() {
        let told = |boot_id, instance| Told { boot_id, instance };
        let before = told("boot", "process");
        let ended = |lost, now, ending| returned(Some(lost), before, now, ending);
        let of = |lost, now| ended(lost, now, Ending::Unspecified).unwrap_or_default();
        let same = told("boot", "process");
        assert!(of(Lost::Silent, same).contains("only unreachable"));
        assert_eq!(of(Lost::Restart, same), "", "it was the controller that was away");
        assert!(of(Lost::Silent, told("boot 2", "new")).contains("was down"));
        assert!(of(Lost::Restart, told("boot 2", "new")).contains("while there was no controller"));
        assert!(of(Lost::Closed, told("boot", "new")).contains("the host ran all the time"));
        let none = returned(None, told("", ""), same, Ending::Unspecified);
        assert_eq!(none, None, "it was never there");

        let anew = |ending| ended(Lost::Restart, told("boot", "new"), ending).unwrap_or_default();
        assert!(anew(Ending::Stopped).ends_with("; the agent had been stopped on purpose"));
        assert!(anew(Ending::Sudden).ends_with("without saying so: it was killed or crashed"));
        assert!(anew(Ending::Unspecified).ends_with("while there was no controller"));
        let booted = |ending| ended(Lost::Restart, told("new", "new"), ending).unwrap_or_default();
        assert!(booted(Ending::HostStopped).ends_with("shut down or booted anew on purpose"));
        assert!(booted(Ending::Sudden).ends_with("it crashed or lost power"));
    }
}
