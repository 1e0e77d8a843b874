//! Which of a unit's last lines tell of how it is now: those of its last start. What a fault said that was
//! mended since then is no cause.

use hostler_proto::ops::UnitStatus;

use crate::ops::journal::Spoken;

/// One that was restarted and is up for less keeps crashing: why, its run before said.
const STEADY_S: u64 = 60;

/// The lines, the oldest first, that count for a unit whose last start has the number `last`.
pub(super) fn present(mut spoken: Vec<Spoken>, last: &str, status: &UnitStatus) -> Vec<String> {
    number(&mut spoken);
    let mut runs: Vec<&str> = Vec::new();
    for line in spoken.iter().rev().filter(|line| !line.invocation.is_empty()) {
        if !runs.contains(&line.invocation.as_str()) {
            runs.push(&line.invocation);
        }
    }
    let crashing = status.restarts > 0 && status.since_s < STEADY_S;
    let newest = runs.first().copied().unwrap_or_default();
    let mut counted = vec![if last.is_empty() { newest } else { last }];
    if crashing {
        let before = runs.iter().find(|run| **run != counted[0]);
        counted.extend(before);
    }
    let counted: Vec<String> = counted.into_iter().map(ToOwned::to_owned).collect();
    // A systemd that numbers no starts leaves all that there is.
    let numbered = !runs.is_empty();
    let stopped = status.active_state == "inactive" && status.result == "success";
    let lines = spoken.into_iter().filter(|line| !numbered || counted.contains(&line.invocation));
    let lines: Vec<String> = lines.map(|line| line.text).collect();
    // What a service complains of while somebody stops it, or did before, is not why it does not run.
    let by_hand = |line: &String| line.starts_with("systemd[1]: Stopping ");
    match lines.iter().any(by_hand) && stopped {
        true => lines.into_iter().filter(|line| line.starts_with("systemd[1]: Stopp")).collect(),
        false => lines,
    }
}

/// Gives lines without a number that of the next line which has one, and at the end that of the last: of a
/// process that ended at once journald often finds nothing more than the unit.
fn number(spoken: &mut [Spoken]) {
    let mut run = String::new();
    let later = spoken.iter().rev().find(|line| !line.invocation.is_empty());
    run.extend(later.map(|line| line.invocation.as_str()));
    for line in spoken.iter_mut().rev() {
        match line.invocation.is_empty() {
            true => line.invocation.clone_from(&run),
            false => run.clone_from(&line.invocation),
        }
    }
}

/// Whether its process was killed, and not because it did not end in time.
pub(super) fn killed(lines: &[String]) -> bool {
    let has =
        |words: &str| lines.iter().any(|l| l.starts_with("systemd[1]: ") && l.contains(words));
    has("code=killed, status=9/KILL") && !has("timed out. Killing") && !has("Killing process")
}

/// The last line of a unit's own: what systemd says after it, that it ended, is seen from its state.
pub(super) fn last_words(lines: &[String]) -> Option<&String> {
    lines.iter().rev().find(|line| !line.starts_with("systemd[1]: ")).or(lines.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(lines: &[(&str, &str)]) -> Vec<Spoken> {
        let line = |(run, text): &(&str, &str)| {
            let (invocation, text) = ((*run).to_owned(), (*text).to_owned());
            Spoken { invocation, text }
        };
        lines.iter().map(line).collect()
    }

    fn status(active: &str, restarts: u32, since_s: u64) -> UnitStatus {
        let (active_state, result) = (active.to_owned(), "success".to_owned());
        UnitStatus { active_state, result, restarts, since_s, ..UnitStatus::default() }
    }

    #[test]
    fn what_was_said_before_the_last_start_no_longer_counts() {
        let lines = [
            ("a1", "(web)[7]: web.service: Failed at step EXEC spawning /opt/web: No such file"),
            ("a1", "systemd[1]: web.service: Main process exited, code=exited, status=203/EXEC"),
            ("b2", "systemd[1]: Started web.service."),
        ];
        let steady = status("active", 0, 900);
        assert_eq!(present(spoken(&lines), "b2", &steady), ["systemd[1]: Started web.service."]);
        assert_eq!(present(spoken(&lines[..2]), "b2", &steady), [""; 0], "nothing was said since");
        let unloaded = status("inactive", 0, 0);
        assert_eq!(present(spoken(&lines), "", &unloaded).len(), 1, "the newest is the last");
    }

    #[test]
    fn what_a_process_said_that_ended_at_once_is_of_the_run_around_it() {
        let lines = [
            ("a1", "systemd[1]: Started web.service."),
            ("", "web[7]: old"),
            ("a1", "systemd[1]: web.service: Main process exited"),
            ("b2", "systemd[1]: Started web.service."),
            ("", "web[8]: ModuleNotFoundError"),
        ];
        let failed = status("failed", 0, 1);
        let of_last = ["systemd[1]: Started web.service.", "web[8]: ModuleNotFoundError"];
        assert_eq!(present(spoken(&lines), "b2", &failed), of_last);
        let [_, unnumbered, ..] = lines;
        assert_eq!(present(spoken(&[unnumbered]), "b2", &failed), ["web[7]: old"], "no numbers");
    }

    #[test]
    fn one_that_keeps_crashing_has_said_why_in_its_run_before() {
        let lines = [("a1", "web[1]: old"), ("b2", "web[2]: no memory"), ("c3", "web[3]: hello")];
        let crashing = status("active", 4, 1);
        let counted = present(spoken(&lines), "c3", &crashing);
        assert_eq!(counted, ["web[2]: no memory", "web[3]: hello"]);
        let failed = status("failed", 0, 1);
        assert_eq!(present(spoken(&lines), "c3", &failed), ["web[3]: hello"]);
    }

    #[test]
    fn what_somebody_stopped_did_not_end_for_what_it_complained_of() {
        let lines = [
            ("a1", "web[1]: Connection refused"),
            ("a1", "systemd[1]: Stopping web.service..."),
            ("a1", "web[1]: Permission denied"),
            ("a1", "systemd[1]: Stopped web.service."),
        ];
        let counted = present(spoken(&lines), "a1", &status("inactive", 0, 5));
        assert!(counted.iter().all(|line| line.starts_with("systemd[1]: Stopp")), "{counted:?}");
        let by_itself = present(spoken(&lines[..1]), "a1", &status("inactive", 0, 5));
        assert_eq!(by_itself, ["web[1]: Connection refused"]);
    }

    #[test]
    fn a_process_that_was_killed_is_told_from_one_that_did_not_end_in_time() {
        let killed_line =
            "systemd[1]: web.service: Main process exited, code=killed, status=9/KILL".to_owned();
        let late = "systemd[1]: web.service: State 'stop-sigterm' timed out. Killing.".to_owned();
        assert!(killed(std::slice::from_ref(&killed_line)));
        assert!(!killed(&[late, killed_line]));
        assert!(!killed(&["web[1]: code=killed, status=9/KILL".to_owned()]), "anybody can say so");
    }

    #[test]
    fn the_last_words_are_the_programs_own() {
        let lines = [
            "python3[12]: cannot bind 0.0.0.0:8000",
            "systemd[1]: web.service: Main process exited, code=exited, status=1/FAILURE",
            "systemd[1]: web.service: Failed with result 'exit-code'.",
        ]
        .map(ToOwned::to_owned);
        assert_eq!(last_words(&lines), Some(&lines[0]));
        assert_eq!(last_words(&lines[1..]), Some(&lines[2]));
        assert_eq!(last_words(&[]), None);
    }
}
