//! Measures a real controller with a simulated fleet: `make bench`. The controller is a process of
//! its own, as it would be in use; all simulated hosts and the operator are in this one.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

mod agents;
mod controller;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use hostler_controller::{
    store::{NewHost, Store, TokenRow},
    vault::Vault,
};
use hostler_core::{
    clock::{Clock, SystemClock},
    tls::Trust,
};
use hostler_proto::wire::{FleetStatusRequest, RunRequest, run_event};
use hostlerctl::{connect::Controller, context::Context};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::time::Instant;

use crate::{
    agents::{Checks, Error, Identity, link_all},
    controller::Process,
};

/// Measures a controller with a simulated fleet.
#[derive(Debug, Parser)]
struct Arguments {
    /// Sizes of the fleet, one after another.
    #[arg(default_values_t = [100, 1_000, 10_000])]
    hosts: Vec<usize>,
    /// Directory of the built programs.
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// Hosts that dial at the same time.
    #[arg(long, default_value_t = 128)]
    abreast: usize,
    /// How often the operation is run on all; the median run is told.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long the idle fleet is watched, in seconds.
    #[arg(long, default_value_t = 30)]
    idle_s: u64,
    /// Measure what checks cost instead: 20 on each host, each told once in this many seconds, one
    /// state of a hundred changing each time. 60 is real time; less compresses it.
    #[arg(long)]
    checks_s: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(beat) = arguments.checks_s {
        for hosts in arguments.hosts.clone() {
            if let Err(error) = measure_checks(&arguments, hosts, Duration::from_secs(beat)).await {
                eprintln!("bench of checks with {hosts} hosts: {error}");
                return ExitCode::FAILURE;
            }
        }
        return ExitCode::SUCCESS;
    }
    println!(
        "{:>6}  {:>10}  {:>12}  {:>12}  {:>9}  {:>9}  {:>9}  {:>9}",
        "hosts", "connects/s", "KiB/host", "KiB/host", "p50 ms", "p99 ms", "total ms", "idle CPU"
    );
    println!(
        "{:>6}  {:>10}  {:>12}  {:>12}  {:>9}  {:>9}  {:>9}  {:>9}",
        "", "", "connected", "after calls", "", "", "", "%"
    );
    for hosts in arguments.hosts.clone() {
        if let Err(error) = measure(&arguments, hosts).await {
            eprintln!("bench with {hosts} hosts: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A fleet that is set up: its controller, an operator, and the simulated hosts that will link.
struct Set {
    set: Process,
    process: controller::Running,
    operator: Controller,
    identities: Vec<Identity>,
    trust: Trust,
    address: &'static str,
    dir: PathBuf,
}

async fn set_up(arguments: &Arguments, count: usize) -> Result<Set, Error> {
    let dir = std::env::current_dir()?.join("target/bench");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let address = "127.8.8.8:7443";
    let set = Process::init(&arguments.programs, &dir, address)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let vault = Vault::open(&dir.join("state"), &*clock)?;
    let identities = enrol(&dir, &vault, &*clock, count).await?;
    let trust = Trust::new(
        vault.authority.fleet().clone(),
        [vault.authority.certificate().clone()],
        Arc::clone(&clock),
    )?;
    let process = set.run()?;
    let operator = operator(&dir).await?;
    Ok(Set { set, process, operator, identities, trust, address, dir })
}

/// An operator, as soon as the controller is there.
async fn operator(dir: &Path) -> Result<Controller, Error> {
    let context = Context::read(&dir.join("admin.toml"))?;
    loop {
        match Controller::dial(&context, Arc::new(SystemClock)).await {
            Ok(operator) => return Ok(operator),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn all_up(operator: &Controller, count: usize) -> Result<(), Error> {
    loop {
        let status = operator.fleet().status(FleetStatusRequest {}).await?.into_inner();
        if status.up as usize == count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What checks cost the controller. A beat below a minute compresses time: then two hours of sixty
/// beats each are told, and the second, when nothing is new any more, is what an hour adds to the
/// store. The hour of figures that is written at the end is the second hour's, too.
async fn measure_checks(arguments: &Arguments, count: usize, beat: Duration) -> Result<(), Error> {
    let Set { process, operator, identities, trust, address, dir, .. } =
        set_up(arguments, count).await?;
    // Three hours ago, so that two hours of beats are over in this one.
    let since_us = SystemClock.now().as_microsecond() - 3 * 3_600_000_000;
    let checks = Checks { each: 20, beat, change: 100, since_us };
    let links = link_all(identities, address, &trust, arguments.abreast, Some(checks)).await?;
    all_up(&operator, count).await?;
    // Every host has told everything once, and beats as it will.
    tokio::time::sleep(beat + Duration::from_secs(5)).await;
    let minute = Duration::from_secs(60);
    let compressed = beat < minute;
    let window = if compressed { beat * 60 } else { minute };
    if compressed {
        tokio::time::sleep(window).await;
    }
    let before = stored(&dir).await?;
    let busy = process.busy_percent(window).await?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        operator.fleet().status(FleetStatusRequest {}).await?;
        times.push(began.elapsed());
    }
    times.sort();
    #[expect(clippy::cast_precision_loss, reason = "sizes in MiB")]
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{count} hosts, 20 checks each, told every {} s, one state of 100 changing each time: \
         {busy:.0} % of one processor, {:.0} MiB resident, status in {:.0} ms",
        beat.as_secs(),
        mib(process.resident()?),
        times[2].as_secs_f64() * 1000.0,
    );
    if compressed {
        process.stop()?;
        let grown = mib(stored(&dir).await?.saturating_sub(before));
        println!(
            "        an hour of 60 such beats, with its figures, made the store grow by {grown:.1} \
             MiB: {:.0} MiB a day; it has {:.0} MiB in all",
            grown * 24.0,
            mib(stored(&dir).await?),
        );
    }
    drop(links);
    Ok(())
}

/// What of the store is in use, in bytes: neither what was freed in its file nor what its log keeps.
async fn stored(dir: &Path) -> Result<u64, Error> {
    let options = SqliteConnectOptions::new().filename(dir.join("state/store.sqlite"));
    let mut store = SqliteConnection::connect_with(&options).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut store).await?;
    let mut number = async |pragma: &str| -> Result<u64, Error> {
        let row = sqlx::query(pragma).fetch_one(&mut store).await?;
        Ok(u64::try_from(row.try_get::<i64, _>(0)?)?)
    };
    let pages = number("PRAGMA page_count").await? - number("PRAGMA freelist_count").await?;
    Ok(pages * number("PRAGMA page_size").await?)
}

async fn measure(arguments: &Arguments, count: usize) -> Result<(), Error> {
    let Set { set, process, operator, identities, trust, address, dir } =
        set_up(arguments, count).await?;
    let base = process.resident()?;

    let began = Instant::now();
    let links = link_all(identities, address, &trust, arguments.abreast, None).await?;
    all_up(&operator, count).await?;
    let connected = began.elapsed();
    let linked = process.resident()?;

    let mut runs = Vec::new();
    for _ in 0..arguments.runs.max(1) {
        runs.push(run_on_all(&operator, count).await?);
    }
    runs.sort_by_key(|run| run.total);
    let median = &runs[runs.len() / 2];
    let called = process.resident()?;
    let idle = process.busy_percent(Duration::from_secs(arguments.idle_s)).await?;

    let per_host = |bytes: u64| {
        let host = u64::try_from(count).unwrap_or(u64::MAX);
        #[expect(clippy::cast_precision_loss, reason = "memory of one process in KiB")]
        let kib = bytes.saturating_sub(base) as f64 / 1024.0 / host as f64;
        kib
    };
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "a number of hosts")]
    let rate = count as f64 / connected.as_secs_f64();
    println!(
        "{count:>6}  {rate:>10.0}  {:>12.1}  {:>12.1}  {:>9.1}  {:>9.1}  {:>9.1}  {idle:>9.2}",
        per_host(linked),
        per_host(called),
        ms(median.p50),
        ms(median.p99),
        ms(median.total),
    );
    drop((operator, process));
    // All of them notice at the same moment, and come back as agents do.
    let process = set.run()?;
    let (began, before) = (Instant::now(), links.made());
    let mut each = vec![0];
    while links.made() - before < count {
        tokio::time::sleep(Duration::from_millis(100)).await;
        each.push(links.made() - before);
    }
    let most = each.iter().zip(each.iter().skip(10)).map(|(a, b)| b - a).max().unwrap_or(count);
    all_up(&self::operator(&dir).await?, count).await?;
    println!(
        "        after a restart of the controller all {count} are back in {:.1} s, at most {most} of \
         them in one second",
        began.elapsed().as_secs_f64()
    );
    drop(process);
    Ok(())
}

/// Writes the simulated hosts into the store as enrolment would.
async fn enrol(
    dir: &Path,
    vault: &Vault,
    clock: &dyn Clock,
    count: usize,
) -> Result<Vec<Identity>, Error> {
    let store =
        Store::open(&format!("sqlite:{}", dir.join("state/store.sqlite").display())).await?;
    let now = clock.now().as_microsecond();
    let token = TokenRow {
        id: "bench".into(),
        host: String::new(),
        labels: std::collections::BTreeMap::new(),
        created_us: now,
        expires_us: i64::MAX,
        uses_left: i64::MAX,
        created_by: "bench".into(),
        replace: false,
    };
    store.create_token(&token, &[0; 32]).await?;
    let mut identities = Vec::with_capacity(count);
    for number in 0..count {
        let identity = Identity::new(number, vault, clock)?;
        let host = NewHost {
            name: identity.host.clone(),
            labels: std::collections::BTreeMap::new(),
            machine_id: identity.host.to_string(),
            key: identity.key.clone(),
            certificate_until_us: now + 86_400_000_000,
            replace: false,
        };
        store.enroll("bench", host, now).await?;
        identities.push(identity);
    }
    Ok(identities)
}

#[derive(Debug)]
struct Times {
    p50: Duration,
    p99: Duration,
    total: Duration,
}

/// One no-op probe on all hosts, with its audit, as an operator sees it.
async fn run_on_all(operator: &Controller, count: usize) -> Result<Times, Error> {
    let request = RunRequest {
        operation: "host.facts".into(),
        on: "all".into(),
        parallel: 0,
        ..RunRequest::default()
    };
    let began = Instant::now();
    let mut events = operator.operations().run(request).await?.into_inner();
    let mut ends = Vec::with_capacity(count);
    let mut answered = 0;
    while let Some(event) = events.message().await? {
        match event.event {
            Some(run_event::Event::Host(host)) if host.delivery != 0 => ends.push(began.elapsed()),
            Some(run_event::Event::Summary(summary)) => answered = summary.ok as usize,
            _ => {}
        }
    }
    let total = began.elapsed();
    if answered != count || ends.len() != count {
        return Err(format!("{answered} of {count} hosts answered well").into());
    }
    Ok(Times { p50: ends[count / 2], p99: ends[count * 99 / 100], total })
}
