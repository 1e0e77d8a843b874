//! What the shell is offered when the operator presses TAB, live names of hosts included.

use std::{ffi::OsStr, time::Duration};

use clap::Arg;
use clap_complete::{CompleteEnv, engine::CompletionCandidate, env::Shells};
use hostler_proto::wire::{HostHealthRequest, HostsRequest};

use crate::{
    admin, command,
    connect::Controller,
    context::Contexts,
    exit::{Exit, Problem},
    run::clock,
};

/// Longest that a person waits for names after pressing TAB.
const PATIENCE: Duration = Duration::from_millis(1500);
const MOST: usize = 500;
/// Commands that take a host and then a check of it.
const VERBS: [&str; 4] = ["history", "diagnose", "acknowledge", "ack"];
/// Names of checks have colons, at which bash begins a new word otherwise.
const WHOLE_WORDS: &str = "\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n";
/// The variable by which a shell asks for completions.
const VARIABLE: &str = "COMPLETE";

/// Answers a shell that asks for completions, and then ends the process; returns when none asks.
pub fn answer() {
    CompleteEnv::with_factory(command::tree)
        .var(VARIABLE)
        .bin("hostlerctl")
        .completer("hostlerctl")
        .complete();
}

/// What a shell runs once so that it asks.
///
/// # Errors
/// When the shell is not known.
pub fn script(shell: &str) -> Result<String, Problem> {
    let shells = Shells::builtins();
    let unknown = || Problem::usage(format!("there are no completions for {shell}"));
    let shell = shells.completer(shell).ok_or_else(unknown)?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "hostlerctl", "hostlerctl", "hostlerctl", &mut script)
        .map_err(|e| Problem::new(Exit::Failed, format!("the script cannot be made: {e}")))?;
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if shell.name() == "bash" {
        script.push_str(WHOLE_WORDS);
    }
    Ok(script)
}

/// Names of contexts.
pub fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = Contexts::of_user().and_then(|c| c.names()).unwrap_or_default();
    matching("", &current.to_string_lossy(), names)
}

/// Names of hosts, also after a comma.
pub fn hosts(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let start = current.rfind(',').map_or(0, |i| i + 1);
    let names = std::iter::once("all".to_owned()).chain(live_hosts().unwrap_or_default());
    matching(&current[..start], &current[start..], names)
}

/// Names of checks of the host that the command line names before.
pub fn checks(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = host_before(arguments()).and_then(|host| {
        live(async |controller| {
            let reply = controller.health().host(HostHealthRequest { host }).await.ok()?;
            let checks = reply.into_inner().checks.into_iter();
            Some(checks.filter_map(|c| c.state).map(|state| state.check).collect())
        })
    });
    matching("", &current.to_string_lossy(), names.unwrap_or_default())
}

/// The host of `history HOST CHECK` and its like: the first word after it that belongs to no option.
fn host_before(arguments: impl Iterator<Item = String>) -> Option<String> {
    let mut words = arguments.skip_while(|word| !VERBS.contains(&word.as_str()));
    let (verb, tree) = (words.next()?, command::tree());
    let options: Vec<_> =
        tree.get_arguments().chain(tree.find_subcommand(&verb)?.get_arguments()).collect();
    let valued = |word: &str| {
        let named = |o: &&&Arg| match word.strip_prefix("--") {
            Some(long) => o.get_long() == Some(long),
            None => o.get_short().is_some_and(|short| word == format!("-{short}")),
        };
        options.iter().find(named).is_some_and(|o| o.get_action().takes_values())
    };
    while let Some(word) = words.next() {
        match word.starts_with('-') {
            true if valued(&word) => drop(words.next()),
            true => {}
            false => return Some(word).filter(|host| !host.is_empty()),
        }
    }
    None
}

fn matching(
    before: &str,
    begun: &str,
    names: impl IntoIterator<Item = String>,
) -> Vec<CompletionCandidate> {
    let fits = names.into_iter().filter(|n| n.starts_with(begun)).take(MOST);
    fits.map(|n| CompletionCandidate::new(format!("{before}{n}"))).collect()
}

/// The context that a command line names, as far as it is written.
fn asked(mut arguments: impl Iterator<Item = String>) -> Option<String> {
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--context") {
            Some("") => return arguments.next(),
            Some(name) if name.starts_with('=') => return Some(name[1..].to_owned()),
            _ => {}
        }
    }
    None
}

fn arguments() -> impl Iterator<Item = String> {
    std::env::args_os().filter_map(|argument| argument.into_string().ok())
}

/// The fleet's hosts, if its controller answers at once.
fn live_hosts() -> Option<Vec<String>> {
    live(async |controller| {
        let request = HostsRequest { on: "all".into() };
        let reply = controller.fleet().hosts(request).await.ok()?;
        Some(reply.into_inner().hosts.into_iter().map(|h| h.name).collect())
    })
}

/// What the controller of the context in use answers, if it does so at once.
fn live(ask: impl AsyncFnOnce(&Controller) -> Option<Vec<String>>) -> Option<Vec<String>> {
    let contexts = Contexts::of_user().ok()?;
    let asked = asked(arguments());
    let (_, context) = admin::contexts::chosen(&contexts, asked.as_deref()).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let asked = async {
            let controller = Controller::dial(&context, clock()).await.ok()?;
            ask(&controller).await
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_that_is_offered_has_a_script() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(shell).expect(shell);
            assert!(script.contains("hostlerctl"), "{shell}");
            assert_eq!(script.contains("COMP_WORDBREAKS"), shell == "bash", "{shell}");
        }
        assert_eq!(script("cmd").expect_err("unknown").exit, Exit::Usage);
    }

    #[test]
    fn the_hosts_that_are_offered_are_those_of_the_context_that_was_named() {
        let of = |line: &str| asked(line.split(' ').map(str::to_owned));
        assert_eq!(of("hostlerctl --context prod status --on w").as_deref(), Some("prod"));
        assert_eq!(of("hostlerctl status --context=prod --on w").as_deref(), Some("prod"));
        assert_eq!(of("hostlerctl status --contextual --on w"), None);
    }

    #[test]
    fn the_host_whose_checks_are_offered_stands_before_them_whatever_options_do() {
        let of = |line: &str| host_before(line.split(' ').map(str::to_owned));
        for line in [
            "hostlerctl history web-1 unit:s",
            "hostlerctl history --since 1h web-1 d",
            "hostlerctl --context prod ack --for=2h web-1",
            "hostlerctl ack --undo web-1 d",
            "hostlerctl history -o json web-1 d",
            "hostlerctl diagnose web-1 d",
        ] {
            assert_eq!(of(line).as_deref(), Some("web-1"), "{line}");
        }
        for line in
            ["hostlerctl history ", "hostlerctl history --since 1h", "hostlerctl status web-1"]
        {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn a_name_is_completed_after_a_comma_too() {
        let names = || ["web-1".to_owned(), "db-1".to_owned()];
        let offered = matching("db-1,", "w", names());
        assert_eq!(offered, [CompletionCandidate::new("db-1,web-1")]);
    }
}
