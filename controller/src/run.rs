//! Puts the controller together: makes a fleet, and runs it.

use std::{sync::Arc, time::Duration};

use hostler_core::{
    clock::{Clock, SystemClock},
    identity::{FleetName, PrincipalName},
    program::{Error, cannot_listen},
    tls::Trust,
};
use hostler_proto::{catalogue::Catalogue, wire::AddOperatorReply};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{
        Api, App,
        credentials::{NewOperator, add_operator},
    },
    audit::{Auditor, Entry, INIT, LOCAL},
    authz::{Operations, Role},
    config::Config,
    dial::Dialler,
    health::{Fleet, figures::Figures, outlook::Outlooks, past::Past, recorder::Recorder},
    links::Links,
    listen::{self, Door},
    metrics::{self, Metrics},
    notify::{Notifier, send::Sender},
    presence::Presence,
    runs::Runs,
    sessions::Sessions,
    store::{Store, StoreClaim, StoreError},
    vault::{self, Vault},
};

/// How often it looks whether its certificate has come into its last third.
const RENEWAL: Duration = Duration::from_secs(3600);

async fn assemble(
    config: Config,
    vault: Vault,
    clock: Arc<dyn Clock>,
) -> Result<(App, Option<StoreClaim>), Error> {
    let targets = config.notify.iter().map(|target| target.name.clone()).collect();
    // Claimed before anything is taken for what a dead controller left.
    let (store, claim) = Store::open_alone(&config.store_url()).await?;
    let store = store.telling(targets);
    let metrics = Metrics::default();
    let (auditor, recovered) =
        Auditor::start(store.clone(), Arc::clone(&clock), metrics.clone()).await?;
    if recovered > 0 {
        tracing::warn!(recovered, "outcomes are unknown: the controller ended before they came");
    }
    let app = App {
        fleet: vault.authority.fleet().clone(),
        keepalive: config.keepalive()?,
        config,
        vault,
        presence: Presence::start(store.clone()),
        health: Fleet::new(store.health().await?),
        recorder: Recorder::start(store.clone()),
        figures: Figures::default(),
        outlooks: Outlooks::default(),
        store,
        auditor,
        links: Links::default(),
        sessions: Sessions::default(),
        runs: Runs::default(),
        catalogue: Catalogue::bare(),
        metrics,
        clock,
    };
    Ok((app, claim))
}

/// Makes a fleet with its first admin. `keep` gets the credentials before there is a fleet: one whose
/// only admin has none would be lost.
///
/// # Errors
/// When there is a fleet already, or something cannot be written: then there is none.
pub async fn init(
    config: Config,
    fleet: FleetName,
    admin: PrincipalName,
    keep: impl FnOnce(&AddOperatorReply) -> Result<(), Error>,
) -> Result<(), Error> {
    config.check()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let _claim = vault::claim(&config.state_dir)?;
    let (vault, unwritten) = Vault::make(&config.state_dir, fleet, "main".parse()?, &*clock)?;
    let (app, _alone) = assemble(config, vault, clock).await?;
    keep(&made_admin(&app, admin, INIT).await?)?;
    Ok(unwritten.write()?)
}

/// Makes an admin, or gives one new credentials, without asking any: for those who have the
/// controller's keys anyway.
///
/// # Errors
/// When there is no fleet, the controller runs, somebody has that name who is no admin, or something
/// cannot be written.
pub async fn admin(
    config: Config,
    admin: PrincipalName,
    keep: impl FnOnce(&AddOperatorReply) -> Result<(), Error>,
) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let _claim = vault::claim(&config.state_dir)?;
    let vault = Vault::open(&config.state_dir, &*clock)?;
    let (app, _alone) = assemble(config, vault, clock).await?;
    if let Some(row) = app.store.operator(&admin).await?
        && row.revoked_us.is_none()
        && row.role != Role::Admin
    {
        return Err(format!(
            "{admin} is {} {}, and would become an admin of the whole fleet; choose a name that nobody \
             has, or have it revoked first: hostlerctl operator revoke {admin}",
            row.role.article(),
            row.role
        )
        .into());
    }
    keep(&made_admin(&app, admin, LOCAL).await?)
}

async fn made_admin(
    app: &App,
    name: PrincipalName,
    principal: &str,
) -> Result<AddOperatorReply, Error> {
    let entry = Entry {
        kind: "change",
        principal: principal.into(),
        operation: "operator.add".into(),
        subject: name.to_string(),
        outcome: "ok".into(),
        detail: serde_json::json!({ "role": "admin" }).to_string(),
        ..Entry::default()
    };
    app.auditor.record_all(vec![entry]).await?;
    let new = NewOperator {
        name,
        role: Role::Admin,
        scope: None,
        operations: Operations::default(),
        life: None,
        replace: true,
    };
    let added = add_operator(app, new).await;
    added.map_err(|status| status.message().to_owned().into())
}

/// Keeps the controller's own certificate from ending while it runs.
async fn keep_renewed(app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEWAL) => {}
            () = stop.cancelled() => return,
        }
        match app.vault.renew(&app.config.state_dir, &*app.clock) {
            Ok(true) => tracing::info!("the controller's certificate is renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!("the controller's certificate is not renewed: {error}"),
        }
    }
}

/// Keeps the claim on the store until `stop`, and stops the controller when it is lost.
async fn keep_claim(
    claim: Option<StoreClaim>,
    stop: CancellationToken,
) -> Result<Option<StoreClaim>, StoreError> {
    let Some(claim) = claim else { return Ok(None) };
    let kept = claim.keep(stop.clone()).await;
    if let Err(error) = &kept {
        tracing::error!("the controller ends: {error}");
        stop.cancel();
    }
    kept.map(Some)
}

/// Each link is a descriptor, and what a shell allows by itself is 1,024.
fn take_all_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Runs until `stop`.
///
/// # Errors
/// When there is no fleet, the store cannot be used, or the port is taken.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    config.check()?;
    take_all_descriptors();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let _claim = vault::claim(&config.state_dir)?;
    let vault = Vault::open(&config.state_dir, &*clock)?;
    let address = config.listen;
    let listener = listen::bind(address)
        .map_err(|e| cannot_listen("the controller", address, "listen", &e))?;
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
    let (app, claim) = assemble(config, vault, clock).await?;
    // It also ends by itself, when another controller has the store.
    let stop = stop.child_token();
    let claiming = tokio::spawn(keep_claim(claim, stop.clone()));
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
    let renewing = tokio::spawn(keep_renewed(Arc::clone(&app), stop.clone()));
    let notifier = Notifier {
        targets: app.config.notify.clone(),
        store: app.store.clone(),
        health: app.health.clone(),
        clock: Arc::clone(&app.clock),
        sender: Sender::new()?,
    };
    let notifying = tokio::spawn(notifier.run(stop.clone()));
    tokio::spawn(Api(Arc::clone(&app)).watch(stop.clone()));
    tokio::spawn(Api(Arc::clone(&app)).foresee(stop.clone()));
    let dialling = TaskTracker::new();
    for (host, address) in dialled {
        let keeping = dialler.clone().keep(host, address, Api(Arc::clone(&app)), stop.clone());
        dialling.spawn(keeping);
    }
    listen::listen(listener, door, Api(Arc::clone(&app)), stop).await;
    let now = app.clock.now().as_microsecond();
    if let Err(error) = app.store.seen_until(now).await {
        tracing::error!(%error, "until when hosts were seen cannot be written down");
    }
    drop(app);
    dialling.close();
    dialling.wait().await;
    let _ = tokio::join!(keeping, notifying, renewing);
    if let Some(serving) = monitored {
        let _ = serving.await;
    }
    let _alone = claiming.await??;
    Ok(())
}
