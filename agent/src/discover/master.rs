//! Which of the main processes that call themselves nginx is this host's. OpenResty, and what GitLab brings
//! along, call themselves so too, and have a configuration of their own.

use std::{fs, path::Path};

use super::{Found, is_service};
use crate::ops::nginx;

impl Found {
    /// Takes a main process of nginx, unless a better one was found. A service is better than what runs in a
    /// container or was started by hand; among those, the one whose configuration can be tested.
    pub(super) fn master(&mut self, pid: u32, unit: &str) {
        let tested = runs(pid, Path::new(nginx::PROGRAM));
        let rank = |unit: &str, tested: Option<bool>| (is_service(unit), tested != Some(false));
        let (new, old) = (rank(unit, tested), self.nginx.as_deref().map(|u| rank(u, self.tested)));
        if old.is_some_and(|old| new < old) {
            return;
        }
        if old.is_some_and(|old| new > old) {
            self.masters.clear();
        }
        self.masters.push(pid);
        (self.nginx, self.tested) = (Some(unit.to_owned()), tested);
    }
}

/// Whether a process runs a program; none where nobody can tell.
fn runs(pid: u32, program: &Path) -> Option<bool> {
    let running = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // An upgrade has put another file in its place.
    let running = running.to_str()?;
    let running = running.strip_suffix(" (deleted)").unwrap_or(running);
    Some(fs::canonicalize(program).is_ok_and(|program| program == Path::new(running)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_the_program_that_it_was_started_from_under_whatever_name() {
        let directory = tempfile::tempdir().expect("directory");
        let (own, link) = (std::env::current_exe().expect("a program"), directory.path().join("l"));
        std::os::unix::fs::symlink(&own, &link).expect("linked");
        let pid = std::process::id();
        assert_eq!((runs(pid, &own), runs(pid, &link)), (Some(true), Some(true)));
        assert_eq!(runs(pid, Path::new("/bin/sh")), Some(false));
        assert_eq!(runs(pid, Path::new("/nonexistent/nginx")), Some(false));
        assert_eq!(runs(u32::MAX, &own), None);
    }

    #[test]
    fn a_web_server_that_only_calls_itself_nginx_hides_none() {
        // This process is certainly no nginx; of one that has ended nobody can tell.
        let (other, nginx) = (std::process::id(), u32::MAX);
        for order in [
            [(other, "a.service"), (nginx, "b.service")],
            [(nginx, "b.service"), (other, "a.service")],
        ] {
            let mut found = Found::default();
            order.iter().for_each(|(pid, unit)| found.master(*pid, unit));
            assert_eq!((found.nginx.as_deref(), found.tested), (Some("b.service"), None));
            assert_eq!(found.masters, [nginx]);
        }
    }
}
