//! The controller's command line.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use hostler_controller::{config::Config, run};
use hostler_core::{
    config as files,
    identity::{FleetName, PrincipalName},
    telemetry::{self, Logs},
};
use hostler_proto::wire::AddOperatorReply;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Holds a fleet: its identities, the links to its hosts, and the audit.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file; the defaults count when the standard one does not exist.
    #[arg(long, global = true, default_value = "/etc/hostler/controller.toml")]
    config: PathBuf,
    /// Write the log as JSON.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a fleet: its authority, this controller's certificate, and a first admin.
    #[command(after_help = "Example: hostler-controller init --fleet prod --context admin.toml\n\
                            Then: hostlerctl context import admin.toml")]
    Init {
        /// Name of the fleet.
        #[arg(long, default_value = "main")]
        fleet: FleetName,
        /// Name of the first admin.
        #[arg(long, default_value = "admin")]
        admin: PrincipalName,
        /// File for the admin's credentials, which hostlerctl context import takes.
        #[arg(long, default_value = "admin.toml")]
        context: PathBuf,
    },
    /// Runs the controller until it is stopped.
    Run,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let logs = if arguments.log_json { Logs::Json } else { Logs::Text };
    let telemetry = match telemetry::start("hostler-controller", logs) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            // There is no log yet.
            let _ = writeln!(std::io::stderr(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = execute(arguments).await;
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    drop(telemetry);
    code
}

async fn execute(arguments: Arguments) -> Result<(), run::Error> {
    let standard = arguments.config == std::path::Path::new("/etc/hostler/controller.toml");
    let config: Config = match standard && !arguments.config.exists() {
        true => Config::default(),
        false => files::read(&arguments.config)?,
    };
    match arguments.command {
        Command::Run => {
            let stop = CancellationToken::new();
            let (mut term, mut int) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let told = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                told.cancel();
            });
            run::run(config, stop).await
        }
        Command::Init { fleet, admin, context } => {
            // Made first: a fleet whose only admin has no credentials would be lost.
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&context)
                .map_err(|e| format!("{} cannot be made (--context): {e}", context.display()))?;
            let made = match run::init(config, fleet, admin).await {
                Ok(made) => made,
                Err(error) => {
                    std::fs::remove_file(&context)?;
                    return Err(error);
                }
            };
            file.write_all(context_text(&made)?.as_bytes())?;
            file.sync_all()?;
            tracing::info!(
                "the fleet {} is made; next: hostlerctl context import {}, hostler-controller run",
                made.fleet,
                context.display()
            );
            Ok(())
        }
    }
}

/// The file that `hostlerctl context import` takes.
fn context_text(made: &AddOperatorReply) -> Result<String, run::Error> {
    #[derive(serde::Serialize)]
    struct Context<'a> {
        fleet: &'a str,
        addresses: &'a [String],
        authority_pem: &'a str,
        chain_pem: &'a str,
        key_pem: &'a str,
    }
    Ok(toml::to_string(&Context {
        fleet: &made.fleet,
        addresses: &made.addresses,
        authority_pem: &made.authority_pem,
        chain_pem: &made.chain_pem,
        key_pem: &made.key_pem,
    })?)
}
