//! The way to systemd: its D-Bus interface, with each unit's properties read into plain values.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use hostler_proto::{
    name::nearest,
    ops::UnitStatus,
    wire::{ErrorCode, Failure},
};
use zbus::{
    connection::Builder,
    fdo::PropertiesProxy,
    names::InterfaceName,
    proxy::CacheProperties,
    zvariant::{OwnedObjectPath, OwnedValue, Value},
};

/// Where every systemd listens.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// How long systemd may take to answer one call.
const PATIENCE: Duration = Duration::from_secs(10);
const SERVICE: &str = "org.freedesktop.systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// systemd's service for the clock. It asks the kernel, which it would not let this agent do: the call that
/// tells is the one that sets.
const CLOCK: &str = "org.freedesktop.timedate1";

/// What `ListUnitsFiltered` tells of a unit: name, description, load, active and sub state,
/// followed unit, object, id, type and object of its job.
type Listed =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_filtered(&self, states: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<Listed>>;
    fn list_unit_files(&self) -> zbus::Result<Vec<(String, String)>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn subscribe(&self) -> zbus::Result<()>;
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// What can be asked of systemd for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop it when it runs, and start it.
    Restart,
    /// Have it read its configuration again.
    Reload,
}

impl Verb {
    /// As one says it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::Reload => "ReloadUnit",
        }
    }
}

/// A unit as it stands: what people see of it, and what a judgement needs beside that.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    /// What people see.
    pub(super) status: UnitStatus,
    /// `simple`, `oneshot`, `notify`, ...; empty for what is no service.
    pub(super) kind: String,
    /// It runs nothing by itself: a oneshot whose program is `true`.
    pub(super) dummy: bool,
    /// It stays active when its process has ended.
    pub(super) remains: bool,
    /// The conditions in its file held when it was last started.
    pub(super) conditions_met: bool,
    /// It can be started by hand.
    pub(super) can_start: bool,
    /// It can be stopped by hand.
    pub(super) can_stop: bool,
    /// It can read its configuration again.
    pub(super) can_reload: bool,
    /// All its names, aliases included.
    pub(super) names: Vec<String>,
    /// Units that can start it again by themselves.
    pub(super) triggered_by: Vec<String>,
    /// One of them is active; looked up only where it matters.
    pub(super) triggered: bool,
    /// When it came into its state, in microseconds since 1970; 0 when it never did.
    pub(super) since_us: u64,
    /// Its object on the bus.
    pub(super) object: String,
}

/// The few properties by which one sees whether a unit stays up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pulse {
    /// `active`, `failed`, ...
    pub(super) active: String,
    /// Main process.
    pub(super) pid: u32,
    /// Restarts by systemd itself.
    pub(super) restarts: u32,
}

/// A connection to systemd.
#[derive(Debug, Clone)]
pub(super) struct Bus {
    connection: zbus::Connection,
    manager: ManagerProxy<'static>,
}

impl Bus {
    /// Connects over the system bus.
    pub(super) async fn connect() -> Result<Self, Failure> {
        Self::at(SYSTEM_BUS).await
    }

    /// Connects over the bus at that address.
    pub(super) async fn at(address: &str) -> Result<Self, Failure> {
        let absent = |problem: String| {
            let message = format!("systemd cannot be reached over the system bus: {problem}");
            Failure::new(ErrorCode::Unsupported, message)
                .hint("this needs a host that was booted with systemd and runs D-Bus")
        };
        let connect = async {
            let connection = Builder::address(address)?.method_timeout(PATIENCE).build().await?;
            let manager = ManagerProxy::builder(&connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            zbus::Result::Ok(Self { connection, manager })
        };
        match tokio::time::timeout(PATIENCE, connect).await {
            Ok(Ok(bus)) => Ok(bus),
            Ok(Err(error)) => Err(absent(error.to_string())),
            Err(_) => Err(absent(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Whether the whole host is being shut down or booted anew.
    pub(super) async fn host_stopping(&self) -> bool {
        self.manager.system_state().await.is_ok_and(|state| state == "stopping")
    }

    /// Whether the kernel takes its clock to be in step with others, whoever keeps it so.
    pub(super) async fn clock_synchronised(&self) -> zbus::Result<bool> {
        let proxy = PropertiesProxy::builder(&self.connection)
            .destination(CLOCK)?
            .path("/org/freedesktop/timedate1")?
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let value = proxy.get(InterfaceName::try_from(CLOCK)?, "NTPSynchronized").await?;
        Ok(matches!(&*value, Value::Bool(true)))
    }

    /// A unit by its full name, loaded or not; `now_us` is what its times are measured against.
    pub(super) async fn unit(&self, name: &str, now_us: i64) -> Result<Unit, Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let common = self.properties(&object, name, UNIT).await?;
        let load = text(&common, "LoadState");
        let own = match interface(name) {
            Some(interface) if load == "loaded" || text(&common, "ActiveState") == "active" => {
                self.properties(&object, name, &interface).await?
            }
            _ => HashMap::new(),
        };
        Ok(Unit { object: object.to_string(), ..read(&common, &own, now_us) })
    }

    /// A unit that must exist; a misspelt name is answered with the nearest one.
    pub(super) async fn existing(&self, name: &str, now_us: i64) -> Result<Unit, Failure> {
        let unit = self.unit(name, now_us).await?;
        let gone = unit.status.load_state == "not-found" && unit.status.active_state == "inactive";
        if !gone {
            return Ok(unit);
        }
        let failure = Failure::new(ErrorCode::NotFound, format!("there is no unit {name}"));
        let known = self.unit_files().await.unwrap_or_default();
        Err(match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => failure.hint(format!("did you mean {near}?")),
            None => failure.hint("`systemd status` without a name lists what has failed"),
        })
    }

    /// Units that systemd stops, or starts anew, together with one.
    pub(super) async fn dependents(&self, name: &str) -> Result<Vec<String>, Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let common = self.properties(&object, name, UNIT).await?;
        let kinds = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf"];
        Ok(kinds.into_iter().flat_map(|kind| texts(&common, kind)).collect())
    }

    /// Names of the units that are in one of those states, whatever kind of state it is.
    pub(super) async fn in_state(&self, states: &[&str]) -> Result<Vec<String>, Failure> {
        let listed = self.manager.list_units_filtered(states).await;
        let listed = listed.map_err(|e| refused("ListUnitsFiltered", &states.join(" "), e))?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// Names of the loaded units that fit a pattern.
    pub(super) async fn like(&self, pattern: &str) -> Result<Vec<String>, Failure> {
        let listed = self.manager.list_units_by_patterns(&[], &[pattern]).await;
        let listed = listed.map_err(|e| refused("ListUnitsByPatterns", pattern, e))?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// Whether and how a unit runs at this moment.
    pub(super) async fn pulse(&self, name: &str) -> Result<Pulse, Failure> {
        let object =
            self.manager.load_unit(name).await.map_err(|e| refused("LoadUnit", name, e))?;
        let active = self.property(&object, UNIT, "ActiveState").await;
        let active = active.map_err(|e| refused("Get ActiveState", name, e))?;
        let mut pulse = Pulse { active: as_text(&active), ..Pulse::default() };
        if let Some(interface) = interface(name).filter(|_| name.ends_with(".service")) {
            let pid = self.property(&object, &interface, "MainPID").await;
            pulse.pid = as_number(&pid.map_err(|e| refused("Get MainPID", name, e))?) as u32;
            // systemd before 235 does not count restarts.
            if let Ok(restarts) = self.property(&object, &interface, "NRestarts").await {
                pulse.restarts = as_number(&restarts) as u32;
            }
        }
        Ok(pulse)
    }

    /// Has systemd do that and waits for the end of its job. Tells the job's result, or none when
    /// `until` came first: the job goes on then.
    pub(super) async fn change(
        &self,
        verb: Verb,
        name: &str,
        until: impl Future<Output = ()>,
    ) -> Result<Option<String>, Failure> {
        let failed = |e| refused(verb.method(), name, e);
        self.manager.subscribe().await.map_err(failed)?;
        // Before the call: a short job can end before its reply is read.
        let mut ended = self.manager.receive_job_removed().await.map_err(failed)?;
        let job = match verb {
            Verb::Start => self.manager.start_unit(name, "replace").await,
            Verb::Stop => self.manager.stop_unit(name, "replace").await,
            Verb::Restart => self.manager.restart_unit(name, "replace").await,
            Verb::Reload => self.manager.reload_unit(name, "replace").await,
        };
        let job = job.map_err(failed)?;
        let result = async {
            while let Some(signal) = ended.next().await {
                if let Ok(args) = signal.args()
                    && *args.job() == job
                {
                    return Ok(Some(args.result().clone()));
                }
            }
            let message = format!("the bus went away while systemd was to {} {name}", verb.word());
            Err(Failure::new(ErrorCode::OutcomeUnknown, message)
                .hint(format!("look at `systemd status {name}`")))
        };
        tokio::select! {
            result = result => result,
            () = until => Ok(None),
        }
    }

    async fn unit_files(&self) -> Result<Vec<String>, Failure> {
        let files = self.manager.list_unit_files().await;
        let files = files.map_err(|e| refused("ListUnitFiles", "", e))?;
        Ok(files.iter().filter_map(|(path, _)| path.rsplit('/').next()).map(Into::into).collect())
    }

    async fn proxy(&self, object: &OwnedObjectPath) -> zbus::Result<PropertiesProxy<'static>> {
        PropertiesProxy::builder(&self.connection)
            .destination(SERVICE)?
            .path(object.clone())?
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    async fn property(
        &self,
        object: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> zbus::Result<OwnedValue> {
        Ok(self.proxy(object).await?.get(InterfaceName::try_from(interface)?, name).await?)
    }

    async fn properties(
        &self,
        object: &OwnedObjectPath,
        name: &str,
        interface: &str,
    ) -> Result<HashMap<String, OwnedValue>, Failure> {
        let all = async {
            let interface = InterfaceName::try_from(interface)?;
            zbus::Result::Ok(self.proxy(object).await?.get_all(interface).await?)
        };
        all.await.map_err(|e| refused("GetAll", name, e))
    }
}

/// The interface that units of this name's type have beside the common one.
fn interface(name: &str) -> Option<String> {
    let (_, suffix) = name.rsplit_once('.')?;
    let first = suffix.get(..1)?.to_ascii_uppercase();
    Some(format!("{SERVICE}.{first}{}", &suffix[1..]))
}

fn read(
    common: &HashMap<String, OwnedValue>,
    own: &HashMap<String, OwnedValue>,
    now_us: i64,
) -> Unit {
    // What goes on below, as a reload does, changes nothing of since when a unit has been active.
    let since = match text(common, "ActiveState").as_str() {
        "active" | "reloading" | "refreshing" => "ActiveEnterTimestamp",
        _ => "StateChangeTimestamp",
    };
    let since_us = number(common, since);
    let passed = u64::try_from(now_us).unwrap_or(0).saturating_sub(since_us);
    let counted =
        |name| Some(number(own, name)).filter(|n| own.contains_key(name) && *n != u64::MAX);
    let main_pid = number(own, "MainPID") as u32;
    // 1 is CLD_EXITED: the process ended by itself and was not killed.
    let ended = main_pid == 0 && number(own, "ExecMainCode") == 1;
    let kind = text(own, "Type");
    let remains = flag(own, "RemainAfterExit");
    let program = own.get("ExecStart").and_then(program).unwrap_or_default();
    let nothing = program == "/bin/true" || program == "/usr/bin/true";
    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days, to the nanosecond")]
    let cpu_s = counted("CPUUsageNSec").map(|ns| ns as f64 / 1e9);
    Unit {
        dummy: kind == "oneshot" && remains && nothing,
        remains,
        kind,
        conditions_met: flag(common, "ConditionResult")
            || number(common, "ConditionTimestamp") == 0,
        can_start: flag(common, "CanStart"),
        can_stop: flag(common, "CanStop"),
        can_reload: flag(common, "CanReload"),
        names: texts(common, "Names"),
        triggered_by: texts(common, "TriggeredBy"),
        triggered: false,
        object: String::new(),
        since_us,
        status: UnitStatus {
            name: text(common, "Id"),
            description: text(common, "Description"),
            load_state: text(common, "LoadState"),
            active_state: text(common, "ActiveState"),
            sub_state: text(common, "SubState"),
            result: text(own, "Result"),
            enabled: text(common, "UnitFileState"),
            since_s: if since_us == 0 { 0 } else { passed / 1_000_000 },
            restarts: number(own, "NRestarts") as u32,
            main_pid,
            memory_bytes: counted("MemoryCurrent"),
            cpu_s,
            exit_status: ended.then(|| number(own, "ExecMainStatus") as i32),
            fragment: text(common, "FragmentPath"),
        },
    }
}

/// Path of the first program of an `ExecStart`.
fn program(value: &OwnedValue) -> Option<String> {
    let Value::Array(commands) = &**value else { return None };
    let Ok(Some(Value::Structure(command))) = commands.get::<Value<'_>>(0) else { return None };
    match command.fields().first() {
        Some(Value::Str(path)) => Some(path.to_string()),
        _ => None,
    }
}

fn text(all: &HashMap<String, OwnedValue>, name: &str) -> String {
    all.get(name).map(as_text).unwrap_or_default()
}

fn as_text(value: &OwnedValue) -> String {
    match &**value {
        Value::Str(text) => text.to_string(),
        _ => String::new(),
    }
}

fn texts(all: &HashMap<String, OwnedValue>, name: &str) -> Vec<String> {
    match all.get(name).map(|v| &**v) {
        Some(Value::Array(array)) => array
            .iter()
            .filter_map(|v| if let Value::Str(text) = v { Some(text.to_string()) } else { None })
            .collect(),
        _ => Vec::new(),
    }
}

fn number(all: &HashMap<String, OwnedValue>, name: &str) -> u64 {
    all.get(name).map(as_number).unwrap_or_default()
}

fn as_number(value: &OwnedValue) -> u64 {
    match &**value {
        Value::U64(n) => *n,
        Value::U32(n) => u64::from(*n),
        Value::I32(n) => u64::try_from(*n).unwrap_or(0),
        Value::I64(n) => u64::try_from(*n).unwrap_or(0),
        _ => 0,
    }
}

fn flag(all: &HashMap<String, OwnedValue>, name: &str) -> bool {
    matches!(all.get(name).map(|v| &**v), Some(Value::Bool(true)))
}

/// What systemd's refusal means to the caller.
fn refused(method: &str, name: &str, error: zbus::Error) -> Failure {
    let (kind, detail) = match &error {
        zbus::Error::MethodError(kind, detail, _) => {
            (kind.as_str().to_owned(), detail.clone().unwrap_or_default())
        }
        zbus::Error::FDO(fdo) => (String::new(), fdo.to_string()),
        other => (String::new(), other.to_string()),
    };
    let (code, hint) = match kind.rsplit('.').next().unwrap_or_default() {
        "NoSuchUnit" | "LoadFailed" => (ErrorCode::NotFound, ""),
        "InvalidArgs" => (ErrorCode::InvalidArgument, ""),
        "UnitMasked" => (ErrorCode::PreconditionFailed, "somebody masked it on purpose"),
        "OnlyByDependency" => {
            (ErrorCode::PreconditionFailed, "its file allows it only as a dependency of others")
        }
        "JobTypeNotApplicable" | "TransactionIsDestructive" | "TransactionJobsConflicting" => {
            (ErrorCode::PreconditionFailed, "another job of systemd may stand in its way")
        }
        "AccessDenied" | "InteractiveAuthorizationRequired" => {
            (ErrorCode::PermissionDenied, "the agent must run as root to change units")
        }
        _ => (ErrorCode::HostFault, ""),
    };
    let evidence = hostler_proto::wire::Evidence {
        kind: "dbus".to_owned(),
        what: format!("{method} {name}").trim_end().to_owned(),
        ..Default::default()
    };
    Failure::new(code, format!("systemd refused {method} {name}: {detail}"))
        .hint(hint)
        .evidence(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_unit_has_an_interface_of_its_own() {
        assert_eq!(interface("a.b.service").as_deref(), Some("org.freedesktop.systemd1.Service"));
        assert_eq!(interface("x.timer").as_deref(), Some("org.freedesktop.systemd1.Timer"));
        assert_eq!(interface("x"), None);
        assert_eq!(interface("x."), None);
    }

    #[tokio::test]
    async fn a_host_without_a_system_bus_is_told_so() {
        let failure = Bus::at("unix:path=/nonexistent/bus").await.expect_err("no bus");
        assert_eq!(failure.code(), ErrorCode::Unsupported);
        assert!(failure.hint.contains("booted with systemd"), "{failure}");
    }

    #[test]
    fn a_unit_is_active_since_it_became_so_whatever_changed_below() {
        let text = |text: &str| OwnedValue::try_from(Value::from(text)).expect("a value");
        let mut common = HashMap::from([
            ("ActiveState".to_owned(), text("active")),
            ("ActiveEnterTimestamp".to_owned(), OwnedValue::from(10_000_000_u64)),
            ("StateChangeTimestamp".to_owned(), OwnedValue::from(70_000_000_u64)),
        ]);
        let since =
            |common: &HashMap<_, _>| read(common, &HashMap::new(), 80_000_000).status.since_s;
        assert_eq!(since(&common), 70, "it was reloaded ten seconds ago");
        common.insert("ActiveState".to_owned(), text("failed"));
        assert_eq!(since(&common), 10);
    }

    #[test]
    fn properties_that_systemd_does_not_count_are_absent_and_not_huge() {
        let own = HashMap::from([
            ("MemoryCurrent".to_owned(), OwnedValue::from(u64::MAX)),
            ("CPUUsageNSec".to_owned(), OwnedValue::from(1_500_000_000_u64)),
        ]);
        let unit = read(&HashMap::new(), &own, 0);
        assert_eq!(unit.status.memory_bytes, None);
        assert_eq!(unit.status.cpu_s, Some(1.5));
        assert_eq!(unit.status.exit_status, None);
    }
}
