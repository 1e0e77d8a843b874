//! Puts the agent together and runs it until it is told to stop.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hostler_core::{
    clock::{Clock, SystemClock},
    link,
    program::{Error, cannot_listen},
    tls::{Credentials, Protocol, Trust},
};
use hostler_proto::{catalogue::Catalogue, wire::HelloReply};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    checks::{Checks, Renewed},
    config::Config,
    discover::{
        checked::{Checked, asks_workers},
        keeper,
    },
    dispatch::Dispatcher,
    ending::Book,
    enroll,
    host::Host,
    identity::Enrolled,
    journal::Journal,
    link::{Dialler, keep},
    serve::Server,
    stack::Stack,
    state::State,
};

/// Runs until `stop`.
///
/// # Errors
/// When the host is not enrolled, or its state or configuration cannot be used.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    config.check()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let enrolled = Enrolled::read(&config.state_dir)?;
    let _state = State::take(&config.state_dir)?;
    let chain = enrolled.chain()?;
    let authority = chain.last().cloned().ok_or("the identity holds no certificate")?;
    let trust = Trust::new(enrolled.fleet()?, [authority], Arc::clone(&clock))?;
    let credentials = Credentials::new(chain, enrolled.key_pem())?;
    let journal = Journal::open(&config.state_dir.join("journal.jsonl"), Arc::clone(&clock))?;
    let keepalive = config.link.keepalive()?;
    let backoff = config.link.backoff()?;

    let (discovers, catalogue) = (!config.stack.exists(), Catalogue::bare());
    let Checked { stack, checks, mut left_out } = config.checked(catalogue).await?;
    let policy = config.policy.clone();
    let host = Arc::new(Host { policy, stack, clock: Arc::clone(&clock) });
    let dispatcher = Dispatcher::new(host, catalogue, journal);
    let memory = config.state_dir.join("checks.json");
    let checks = Checks::new(checks, dispatcher.clone(), memory, Arc::clone(&clock))?;
    let (book, before) = Book::open(&config.state_dir);
    let hello = HelloReply { before: before.into(), ..hello(&config, &*clock) };
    let server = Server::new(dispatcher.clone(), Arc::clone(&clock), hello, checks.clone());
    let dialler = Dialler { trust: trust.clone(), credentials: Arc::clone(&credentials) };
    let addresses = match config.controllers.is_empty() {
        true => enrolled.controllers.clone(),
        false => config.controllers.clone(),
    };

    let tasks = TaskTracker::new();
    let told = signal(SignalKind::hangup())?;
    tasks.spawn(obey(told, config.policy.file.clone(), dispatcher.clone(), stop.clone()));
    checks.start(&tasks, &enrolled.host, &stop);
    if discovers {
        let (checks, dispatcher, running) = (checks.clone(), dispatcher.clone(), tasks.clone());
        let (host, stopped) = (enrolled.host.clone(), stop.clone());
        let (policy, asks) = (config.policy.clone(), asks_workers(&config.policy));
        let found = move |stack: Stack| match Checked::new(stack, &policy, catalogue) {
            Ok(found) => {
                found.warn(&left_out);
                left_out = found.left_out;
                dispatcher.know(found.stack);
                let Renewed { begun, ended } =
                    checks.renew(found.checks, &running, &host, &stopped);
                if !begun.is_empty() {
                    let new = begun.join(" ");
                    tracing::info!(new, "came up after the agent, and is checked now");
                }
                if !ended.is_empty() {
                    let gone = ended.join(" ");
                    tracing::info!(gone, "starts here no more, and is not checked any more");
                }
            }
            Err(error) => tracing::warn!(%error, "what was found cannot be checked"),
        };
        tasks.spawn(keeper::keep_looking(config.state_dir.clone(), asks, stop.clone(), found));
    }
    for address in addresses.iter().filter(|_| config.dial) {
        let rng = SmallRng::from_os_rng();
        let (address, dialler, server) = (address.clone(), dialler.clone(), server.clone());
        tasks.spawn(keep(address, dialler, server, keepalive, backoff, stop.clone(), rng));
    }
    let state_dir = config.state_dir.clone();
    tasks.spawn(enroll::keep_renewed(dialler, addresses, state_dir, clock, stop.clone()));
    if let Some(address) = config.listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| cannot_listen("the agent", address, "listen", &e))?;
        let acceptor =
            TlsAcceptor::from(trust.accept(Protocol::Grpc, &credentials, Duration::ZERO)?);
        tasks.spawn(listen(listener, acceptor, trust, server, keepalive, stop.clone()));
    }
    book.begins();
    tracing::info!(host = enrolled.host, fleet = enrolled.fleet, "the agent runs");

    stop.cancelled().await;
    // At once: what still runs may keep it until it is killed.
    let written = async { book.stops(checks.stopped_with_host().await) };
    tokio::join!(dispatcher.stop(config.stop), written);
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
    Ok(())
}

/// Reads the policy anew at each SIGHUP. One that cannot be used changes nothing.
async fn obey(mut told: Signal, file: PathBuf, dispatcher: Dispatcher, stop: CancellationToken) {
    loop {
        tokio::select! {
            _ = told.recv() => {}
            () = stop.cancelled() => return,
        }
        let read = || -> Result<Config, Error> {
            // In the moment in which it is written anew the defaults would count, which allow all.
            if !file.exists() {
                return Err(format!("{} is not there", file.display()).into());
            }
            let config = Config::read(&file)?;
            config.check()?;
            Ok(config)
        };
        match read() {
            Ok(config) => {
                dispatcher.obey(config.policy);
                tracing::info!("the policy was read anew; other keys count from the next start on");
            }
            Err(error) => tracing::error!("the policy stays as it was: {error}"),
        }
    }
}

/// Serves controllers that dial in. Only a controller's certificate is let in.
async fn listen(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    trust: Trust,
    server: Server,
    keepalive: link::Keepalive,
    stop: CancellationToken,
) {
    // Peers that have proven nothing yet do not take the places of those that have.
    let doors = Arc::new(Semaphore::new(16));
    let slots = Arc::new(Semaphore::new(16));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(door) = Arc::clone(&doors).try_acquire_owned() else { continue };
        let slots = Arc::clone(&slots);
        let (acceptor, trust, server) = (acceptor.clone(), trust.clone(), server.clone());
        let stop = stop.clone();
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(Duration::from_secs(5), acceptor.accept(stream));
            let Ok(Ok(stream)) = handshake.await else { return };
            drop(door);
            let certificates = stream.get_ref().1.peer_certificates();
            match trust.controller(certificates) {
                Ok(()) => {
                    let Ok(_slot) = slots.try_acquire_owned() else { return };
                    let stopped = async move { stop.cancelled().await };
                    let _ = link::serve(stream, server, keepalive, stopped).await;
                }
                Err(error) => tracing::warn!(%peer, %error, "a caller was refused"),
            }
        });
    }
}

fn hello(config: &Config, clock: &dyn Clock) -> HelloReply {
    let read = |path: &str| {
        let text = std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        text.trim().to_owned()
    };
    let release = read("/etc/os-release");
    let mut facts = HashMap::new();
    for line in release.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim_matches('"').to_owned();
        match key {
            "ID" => drop(facts.insert("os_id".to_owned(), value)),
            "VERSION_ID" => drop(facts.insert("os_version".to_owned(), value)),
            _ => {}
        }
    }
    facts.insert("kernel".into(), read("/proc/sys/kernel/osrelease"));
    facts.insert("architecture".into(), std::env::consts::ARCH.into());
    facts.insert("hostname".into(), read("/proc/sys/kernel/hostname"));
    HelloReply {
        version: env!("CARGO_PKG_VERSION").into(),
        instance: clock.id().to_string(),
        machine_id: read("/etc/machine-id"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        labels: config.labels.clone().into_iter().collect(),
        facts,
        operations: Vec::new(),
        before: 0,
    }
}

/// The name that the kernel reports, in the form of a host name.
pub fn own_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_ascii_lowercase()
}
