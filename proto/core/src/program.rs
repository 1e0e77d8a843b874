//! What the two daemons share as programs: their log, how they end, and when they are told to stop.

use std::{
    io::{self, ErrorKind, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
};

use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, ConfigError},
    telemetry::{self, Logs},
};

/// Anything that ends a program; each ends in one sentence for people.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs a program with its log and traces, and gives its exit status.
pub async fn execute(
    service: &'static str,
    log_json: bool,
    program: impl Future<Output = Result<(), Error>>,
) -> ExitCode {
    let logs = if log_json { Logs::Json } else { Logs::Text };
    let telemetry = match telemetry::start(service, logs) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            // There is no log yet.
            let _ = writeln!(io::stderr(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = program.await;
    if let Err(error) = &ended {
        tracing::error!("{error}");
    }
    drop(telemetry);
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A program's configuration: the defaults when it is the standard file, and not there.
///
/// # Errors
/// As [`config::read`].
pub fn configured<T: DeserializeOwned + Default>(
    file: &Path,
    standard: &str,
) -> Result<T, ConfigError> {
    match file == Path::new(standard) && !file.exists() {
        true => Ok(T::default()),
        false => config::read(file),
    }
}

/// Why an address cannot be listened on, with the key that names it and what to do.
pub fn cannot_listen(who: &str, address: SocketAddr, key: &str, error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => {
            "end what listens there (`ss -ltnp` names it), or choose another port"
        }
        ErrorKind::AddrNotAvailable => "choose an address of this machine",
        ErrorKind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose another address",
    };
    format!("{who} cannot listen on {address} (key {key}): {error}; {advice}")
}

/// Is cancelled when the process is asked to end, by SIGTERM or Ctrl-C.
///
/// # Errors
/// When signals cannot be watched.
pub fn told_to_stop() -> io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
