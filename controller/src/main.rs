//! The controller's command line.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use hostler_controller::{config::Config, run};
use hostler_core::{
    identity::{FleetName, PrincipalName},
    program,
};
use hostler_proto::wire::AddOperatorReply;

const STANDARD: &str = "/etc/hostler/controller.toml";

/// Holds a fleet: its identities, the links to its hosts, and the audit.
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
    /// Gives an admin new credentials, or makes one, while the controller is stopped: for a fleet that
    /// no admin can enter any more.
    #[command(after_help = "Example: hostler-controller admin alice --context alice.toml\n\
                            Then: hostlerctl context import alice.toml")]
    Admin {
        /// Name of the admin.
        name: PrincipalName,
        /// File for the admin's credentials, which hostlerctl context import takes.
        #[arg(long, default_value = "admin.toml")]
        context: PathBuf,
    },
    /// Runs the controller until it is stopped.
    Run,
    /// Says whether the configuration can be used.
    CheckConfig,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    program::execute("hostler-controller", arguments.log_json, execute(arguments)).await
}

async fn execute(arguments: Arguments) -> Result<(), program::Error> {
    let config: Config = program::configured(&arguments.config, STANDARD)?;
    match arguments.command {
        Command::Run => run::run(config, program::told_to_stop()?).await,
        Command::CheckConfig => {
            config.check()?;
            tracing::info!("the configuration can be used");
            Ok(())
        }
        Command::Init { fleet, admin, context } => {
            let name = fleet.clone();
            write_context(&context, |keep| run::init(config, fleet, admin, keep)).await?;
            tracing::info!(
                "the fleet {name} is made; next: hostlerctl context import {}, hostler-controller run",
                context.display()
            );
            Ok(())
        }
        Command::Admin { name, context } => {
            let admin = name.clone();
            write_context(&context, |keep| run::admin(config, name, keep)).await?;
            tracing::info!(
                "{admin} is an admin; next: hostlerctl context import {}",
                context.display()
            );
            Ok(())
        }
    }
}

/// Has somebody's credentials made, and kept in a new file, which is gone again when they are not.
async fn write_context<F: Future<Output = Result<(), program::Error>>>(
    path: &Path,
    make: impl FnOnce(Box<dyn FnOnce(&AddOperatorReply) -> Result<(), program::Error>>) -> F,
) -> Result<(), program::Error> {
    // Made first: where it cannot be, nothing else is.
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file =
        file.map_err(|e| format!("{} cannot be made (--context): {e}", path.display()))?;
    let shown = path.display().to_string();
    let keep = Box::new(move |made: &AddOperatorReply| -> Result<(), program::Error> {
        let text = context_text(made)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        Ok(written.map_err(|e| format!("{shown} cannot be written (--context): {e}"))?)
    });
    let made = make(keep).await;
    if made.is_err() {
        // The error to tell is the first one.
        let _ = std::fs::remove_file(path);
    }
    made
}

/// The file that `hostlerctl context import` takes.
fn context_text(made: &AddOperatorReply) -> Result<String, program::Error> {
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
