//! Asking before data can be lost.

use std::io::{self, BufRead as _};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{exit::Problem, screen::Screen};

/// Whether anybody can be asked.
///
/// # Errors
/// When nobody can, with the advice to say so in advance.
pub fn possible(screen: &Screen) -> Result<(), Problem> {
    match screen.traits().interactive {
        true => Ok(()),
        false => {
            Err(Problem::usage("this needs a confirmation, and there is no terminal to ask at")
                .hint("look first, then say --yes"))
        }
    }
}

/// Asks to type the host's name, or the number of hosts. Ctrl-C is an answer, too.
///
/// # Errors
/// When anything else is typed.
pub async fn ask(screen: &mut Screen, what: &str, hosts: &[&str]) -> Result<(), Problem> {
    possible(screen)?;
    let (question, expected) = question(what, hosts);
    let unheard = |e| Problem::usage(format!("Ctrl-C cannot be listened for: {e}"));
    let mut interrupts = signal(SignalKind::interrupt()).map_err(unheard)?;
    screen.ask(&question);
    let (typed, answer) = oneshot::channel();
    // A thread that the end of the program does not wait for.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let _ = typed.send(read.map(|_| line));
    });
    let line = tokio::select! {
        line = answer => line.unwrap_or_else(|_| Ok(String::new())),
        _ = interrupts.recv() => {
            screen.tell("");
            Ok(String::new())
        }
    };
    let line = line.map_err(|e| Problem::usage(format!("the confirmation cannot be read: {e}")))?;
    match line.trim() == expected {
        true => Ok(()),
        false => {
            Err(Problem::usage(format!("{what} was not confirmed")).hint("nothing was changed"))
        }
    }
}

fn question(what: &str, hosts: &[&str]) -> (String, String) {
    match hosts {
        [host] => (format!("{what} on {host}: type the host's name to go ahead:"), (*host).into()),
        many => (
            format!("{what} on {} hosts: type their number to go ahead:", many.len()),
            many.len().to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exit::Exit, screen::Traits};

    #[test]
    fn without_a_terminal_nothing_is_taken_for_granted() {
        let screen = Screen::new(Vec::new(), Vec::new(), Traits::default());
        assert_eq!(possible(&screen).expect_err("nobody there").exit, Exit::Usage);
    }

    #[test]
    fn what_must_be_typed_tells_how_much_is_at_stake() {
        assert_eq!(question("disk.clean", &["web-1"]).1, "web-1");
        assert_eq!(question("disk.clean", &["web-1", "web-2"]).1, "2");
    }
}
