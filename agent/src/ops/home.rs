//! Where a server of the stack file runs, as one looks at it next: its unit, and what that logs.

use crate::host::place::Place;

/// What to do about a server that was found, and that only a stack file can say how to ask.
pub(super) const DISCOVER: &str = "on the host: hostler-agent discover >/etc/hostler/stack.toml";

/// Where a server runs.
#[derive(Debug)]
pub(super) struct Home<'e> {
    /// The unit that the stack file names among what the server's check is after.
    unit: Option<&'e str>,
    /// The one that such a server mostly has.
    usual: &'static str,
    place: Option<Place>,
}

impl<'e> Home<'e> {
    /// That of a server whose check is `after` others. Of several units its own is the one that is called as
    /// servers of its kind are.
    pub(super) fn of(
        after: &'e [String],
        called: &[&str],
        usual: &'static str,
        place: Option<Place>,
    ) -> Self {
        let mut units = after.iter().filter_map(|after| after.strip_prefix("unit:"));
        let first = units.clone().next();
        let unit = units.find(|unit| called.iter().any(|name| unit.contains(name))).or(first);
        Self { unit, usual, place }
    }

    /// The operation that shows how its unit is.
    pub(super) fn status(&self) -> String {
        format!("systemd status {}", self.unit.unwrap_or(self.usual))
    }

    /// The operation that tells who should answer there; nothing where no port of this host leads to it.
    pub(super) fn whose(&self) -> String {
        self.place.as_ref().map(Place::whose).unwrap_or_default()
    }

    /// The operation that shows what it logs; without its unit nobody can tell, and which that is, the port
    /// tells, or at a socket the list of units.
    pub(super) fn log(&self) -> String {
        match self.unit {
            Some(unit) => format!("journal read --unit {unit} --lines 50"),
            None => Some(self.whose()).filter(|w| !w.is_empty()).unwrap_or_else(|| self.status()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hostler_proto::{args, catalogue::Catalogue};

    use super::*;

    #[test]
    fn what_to_look_at_next_is_the_unit_that_the_stack_file_names() {
        let of = |after: &[&str], place| {
            let after: Vec<String> = after.iter().map(|name| (*name).to_owned()).collect();
            let home = Home::of(&after, &["redis", "valkey"], "redis-server", place);
            (home.status(), home.log())
        };
        let port = || Some(Place::at("127.0.0.1", 6380));
        for unit in ["redis@6380", "valkey-server", "redis"] {
            let after = ["check:network", "unit:docker", &format!("unit:{unit}")];
            let (status, log) = of(&after, port());
            assert_eq!(status, format!("systemd status {unit}"));
            assert_eq!(log, format!("journal read --unit {unit} --lines 50"));
            let spec = Catalogue::embedded().get("journal.read").expect("journal.read");
            args::from_text(spec, [("unit", unit)]).expect("it can be typed");
        }
        assert_eq!(of(&["unit:cache"], port()).0, "systemd status cache");
        let unnamed = of(&[], port());
        assert_eq!(unnamed, ("systemd status redis-server".into(), "net port-owner 6380".into()));
        let socket = of(&[], Some(Place::Socket("/run/redis.sock".into())));
        assert_eq!(socket.1, "systemd status redis-server", "no port leads to a socket");
    }
}
