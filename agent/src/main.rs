//! The agent's command line.

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use hostler_agent::{
    checks::possible,
    config::{Config, STANDARD},
    discover::Found,
    enroll::{self, Candidate},
    run,
};
use hostler_core::{clock::SystemClock, program, token::Token};
use hostler_proto::catalogue::Catalogue;

/// Keeps this host in working order for the controllers of its fleet.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file; the defaults count when the standard one does not exist.
    #[arg(long, global = true, default_value = STANDARD)]
    config: PathBuf,
    /// Write the log as JSON.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent until it is stopped.
    Run,
    /// Makes this host a member of a fleet.
    #[command(after_help = "Example: hostler-agent enroll --controller ctl.example.org:7443 \
                            --token-file /root/token")]
    Enroll {
        /// Where the controller listens: HOST:PORT.
        #[arg(long)]
        controller: String,
        /// The token; on a machine with other users give --token-file instead.
        #[arg(long, conflicts_with = "token_file", required_unless_present = "token_file")]
        token: Option<String>,
        /// File that holds the token.
        #[arg(long)]
        token_file: Option<PathBuf>,
        /// Name in the fleet; the host's own when it is left out.
        #[arg(long)]
        host: Option<String>,
        /// Replace the identity that this host has; its former certificate is lost.
        #[arg(long)]
        force: bool,
    },
    /// Says whether the configuration can be used.
    CheckConfig,
    /// Finds what runs on this host, and writes a stack file of it to standard output.
    #[command(after_help = "Example: hostler-agent discover > /etc/hostler/stack.toml")]
    Discover {
        /// Compare what runs with the stack file that there is; ends with 1 when they differ.
        #[arg(long)]
        check: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::execute("hostler-agent", arguments.log_json, execute(arguments)).await
}

async fn execute(arguments: Arguments) -> Result<(), program::Error> {
    let config = Config::read(&arguments.config)?;
    match arguments.command {
        Command::Run => run::run(config, program::told_to_stop()?).await,
        Command::Enroll { controller, token, token_file, host, force } => {
            let token = match (token, token_file) {
                (Some(token), _) => token,
                (None, Some(path)) => std::fs::read_to_string(&path)
                    .map_err(|e| format!("the token {} cannot be read: {e}", path.display()))?,
                (None, None) => return Err("give --token or --token-file".into()),
            };
            let token: Token = token.trim().parse()?;
            let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
            let candidate = Candidate {
                host: host.unwrap_or_default(),
                hostname: run::own_name(),
                labels: config.labels.clone(),
                machine_id: machine_id.trim().to_owned(),
            };
            let clock = Arc::new(SystemClock);
            let state_dir = &config.state_dir;
            let enrolled =
                enroll::enroll(&controller, &token, candidate, state_dir, force, clock).await?;
            tracing::info!("{} is enrolled in fleet {}", enrolled.host, enrolled.fleet);
            Ok(())
        }
        Command::Discover { check: false } => {
            let found = Found::look().asked(|_| true).await;
            std::io::stdout().lock().write_all(found.to_toml().as_bytes())?;
            Ok(())
        }
        Command::Discover { check: true } => {
            let stack = hostler_core::config::read(&config.stack)?;
            let differences = Found::look().compared(stack).await;
            if differences.is_empty() {
                tracing::info!("the stack file names what is there");
                return Ok(());
            }
            let mut out = std::io::stdout().lock();
            for difference in &differences {
                writeln!(out, "{difference}")?;
            }
            let (many, path) = (differences.len(), config.stack.display());
            Err(format!("{path} and what is there differ in {many} things").into())
        }
        Command::CheckConfig => {
            config.check()?;
            let checked = config.checked(Catalogue::bare()).await?;
            for said in possible::unread(&checked.stack) {
                tracing::warn!("{said}");
            }
            tracing::info!(checks = checked.checks.len(), "the configuration can be used");
            Ok(())
        }
    }
}
