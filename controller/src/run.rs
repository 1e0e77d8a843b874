//! Puts the controller together: makes a fleet, and runs it.

use std::{collections::HashSet, sync::Arc};

use hostler_core::{
    clock::{Clock, SystemClock},
    identity::{FleetName, PrincipalName},
    program::Error,
    tls::Trust,
};
use hostler_proto::{catalogue::Catalogue, wire::AddOperatorReply};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{Api, App, access::add_operator},
    audit::{Auditor, Entry},
    authz::Role,
    config::Config,
    dial::Dialler,
    health::{Fleet, figures::Figures, past::Past, recorder::Recorder},
    links::Links,
    listen::{self, Door},
    metrics::{self, Metrics},
    notify::{Notifier, send::Sender},
    presence::Presence,
    runs::Runs,
    sessions::Sessions,
    store::Store,
    vault::{self, Vault},
};

async fn assemble(config: Config, vault: Vault, clock: Arc<dyn Clock>) -> Result<App, Error> {
    let targets = config.notify.iter().map(|target| target.name.clone()).collect();
    let store = Store::open(&config.store_url()).await?.telling(targets);
    let metrics = Metrics::default();
    let (auditor, recovered) =
        Auditor::start(store.clone(), Arc::clone(&clock), metrics.clone()).await?;
    if recovered > 0 {
        tracing::warn!(recovered, "outcomes are unknown: the controller ended before they came");
    }
    Ok(App {
        fleet: vault.authority.fleet().clone(),
        keepalive: config.keepalive()?,
        config,
        vault,
        presence: Presence::start(store.clone()),
        health: Fleet::new(store.health().await?),
        recorder: Recorder::start(store.clone()),
        figures: Figures::default(),
        store,
        auditor,
        links: Links::default(),
        sessions: Sessions::default(),
        runs: Runs::default(),
        catalogue: Catalogue::bare()?,
        metrics,
        clock,
    })
}

/// Makes a fleet with its first admin, whose credentials are given back.
///
/// # Errors
/// When there is a fleet already, or it cannot be written.
pub async fn init(
    config: Config,
    fleet: FleetName,
    admin: PrincipalName,
) -> Result<AddOperatorReply, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // First what can refuse: a fleet whose store cannot be used would be half made.
    vault::prepare(&config.state_dir)?;
    drop(Store::open(&config.store_url()).await?);
    let vault = Vault::create(&config.state_dir, fleet, "main".parse()?, &*clock)?;
    let life = config.operator_certificate;
    let app = assemble(config, vault, clock).await?;
    let entry = Entry {
        kind: "change",
        principal: "init".into(),
        operation: "operator.add".into(),
        subject: admin.to_string(),
        outcome: "ok".into(),
        detail: serde_json::json!({ "role": "admin" }).to_string(),
        ..Entry::default()
    };
    app.auditor.record_all(vec![entry]).await?;
    let added = add_operator(&app, admin, Role::Admin, None, life).await;
    added.map_err(|status| status.message().to_owned().into())
}

/// Runs until `stop`.
///
/// # Errors
/// When there is no fleet, the store cannot be used, or the port is taken.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let vault = Vault::open(&config.state_dir, &*clock)?;
    let address = config.listen;
    let listener = listen::bind(address)
        .map_err(|e| format!("the controller cannot listen on {address} (key listen): {e}"))?;
    let monitored = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let grace = config.renewal_grace;
    let authority = vault.authority.certificate().clone();
    let fleet = vault.authority.fleet().clone();
    let trust = Trust::new(fleet, [authority], Arc::clone(&clock))?;
    let door = Door::new(trust.clone(), &vault.credentials, grace)?;
    let dialler = Dialler { trust, credentials: Arc::clone(&vault.credentials) };
    let dialled = config.dialled()?;
    let app = assemble(config, vault, clock).await?;
    let now = app.clock.now().as_microsecond();
    let lost = app.store.none_connected("the controller was restarted", now).await?;
    tracing::info!(fleet = %app.fleet, %address, lost, "the controller runs");
    let app = Arc::new(app);
    let monitored = monitored
        .map(|listener| tokio::spawn(metrics::serve(listener, Arc::clone(&app), stop.clone())));
    let past = Past {
        figures: app.figures.clone(),
        store: app.store.clone(),
        clock: Arc::clone(&app.clock),
        retention: app.config.figures,
    };
    let keeping = tokio::spawn(past.keep(stop.clone()));
    let notifier = Notifier {
        targets: app.config.notify.clone(),
        store: app.store.clone(),
        health: app.health.clone(),
        clock: Arc::clone(&app.clock),
        sender: Sender::new()?,
        told: HashSet::new(),
    };
    let notifying = tokio::spawn(notifier.run(stop.clone()));
    let dialling = TaskTracker::new();
    for (host, address) in dialled {
        let keeping = dialler.clone().keep(host, address, Api(Arc::clone(&app)), stop.clone());
        dialling.spawn(keeping);
    }
    listen::listen(listener, door, Api(app), stop).await;
    dialling.close();
    dialling.wait().await;
    let _ = tokio::join!(keeping, notifying);
    if let Some(serving) = monitored {
        let _ = serving.await;
    }
    Ok(())
}
