//! The operations on Python environments, front ends and backups, against the hosts' own pip, pnpm and
//! pg_dump. What pip and pnpm ask is served on the host itself.

use hostler_tests::{fleet::Fleet, lab::Lab, process::eventually};
use serde_json::Value;

use super::{Try, on};

pub(crate) const OPERATIONS: [(&str, Try); 3] = [
    ("pip.outdated", pip_outdated),
    ("pnpm.outdated", pnpm_outdated),
    ("postgres.backups", backups),
];

/// What they look at; nothing checks it.
pub(crate) const STACK: &str = r#"
[[virtualenv]]
name = "app"
path = "/opt/omnidoc/.venv"

[[virtualenv]]
name = "lacking"
path = "/srv/lacking"

[[virtualenv]]
name = "hostile"
path = "/srv/hostile"

[[frontend]]
name = "web"
path = "/srv/web"

[[frontend]]
name = "npm"
path = "/srv/npm"

[[backups]]
name = "dumps"
directory = "/srv/dumps"
database = "omnidoc"

[[backups]]
name = "old"
directory = "/opt/omnidoc/backups"
pattern = "omnidoc_old*.sql.gz"

[[backups]]
name = "forbidden"
directory = "/etc"

[check."pip:app"]
off = true
[check."pip:lacking"]
off = true
[check."pip:hostile"]
off = true
[check."pnpm:web"]
off = true
[check."pnpm:npm"]
off = true
[check."backups:dumps"]
off = true
[check."backups:old"]
off = true
[check."backups:forbidden"]
off = true
"#;

fn sh(lab: &Lab, script: &str) -> String {
    lab.exec("h1", &["sh", "-ec", script])
}

fn as_omnidoc(lab: &Lab, script: &str) -> String {
    lab.exec("h1", &["su", "omnidoc", "-c", script])
}

/// Serves a directory on the host's own port until it is told to stop.
fn serve(lab: &Lab, directory: &str, port: &str) {
    let server = ["python3", "-m", "http.server", "--bind", "127.0.0.1"];
    let unit = format!("--unit=serve-{port}");
    let run = ["systemd-run", "--quiet", &unit, &format!("--working-directory={directory}")];
    lab.exec("h1", &[&run[..], &server, &[port]].concat());
    let url = format!("http://127.0.0.1:{port}/");
    eventually("it serves", || lab.succeeds("h1", &["curl", "-s", "-o", "/dev/null", &url]));
}

fn stop(lab: &Lab, port: &str) {
    lab.exec("h1", &["systemctl", "stop", &format!("serve-{port}")]);
}

fn summary(seen: &Value) -> &str {
    seen["summary"].as_str().expect("a summary")
}

fn pip_outdated(fleet: &Fleet, lab: &Lab) {
    let outdated = |code: i32| on(fleet, "h1", &["pip", "outdated", "app"], code);
    sh(lab, "touch /tmp/mark");
    let seen = outdated(0);
    let compiled = "find /opt/omnidoc/.venv ~omnidoc -newer /tmp/mark -name '*.pyc' | wc -l";
    assert_eq!(sh(lab, compiled).trim(), "0", "nothing is written");
    let own = as_omnidoc(lab, "/opt/omnidoc/.venv/bin/pip list --outdated --format=json");
    let own: Value = serde_json::from_str(own.trim()).expect("pip's list");
    let idna = own.as_array().and_then(|l| l.iter().find(|p| p["name"] == "idna"));
    let idna = idna.expect("idna is outdated").clone();
    let packages = seen["data"]["packages"].as_array().expect("packages").clone();
    assert_eq!(packages.len(), own.as_array().map_or(0, Vec::len), "{seen}");
    let ours = packages.iter().find(|p| p["name"] == "idna").expect("told");
    assert_eq!((&ours["installed"], &ours["latest"]), (&idna["version"], &idna["latest_version"]));
    assert_eq!((&ours["jump"], &ours["direct"]), (&"minor".into(), &false.into()), "{seen}");
    let environment = &seen["data"]["environments"][0];
    assert_eq!((&environment["user"], seen["status"].as_str()), (&"omnidoc".into(), Some("ok")));
    let python = as_omnidoc(lab, "/opt/omnidoc/.venv/bin/python -V");
    assert_eq!(format!("Python {}", environment["python"].as_str().expect("text")), python.trim());
    indexes(lab, &outdated);

    // An environment of root's own, in which something is missing.
    sh(
        lab,
        "cp -r /opt/omnidoc/.venv /srv/lacking && \
         rm -r /srv/lacking/lib/python3*/site-packages/anyio*",
    );
    let lacking = on(fleet, "h1", &["pip", "outdated", "lacking"], 0);
    assert_eq!(lacking["status"], "warning", "{lacking}");
    assert!(summary(&lacking).contains("requires anyio, which is not installed"), "{lacking}");
    assert_eq!(lacking["data"]["environments"][0]["user"], "nobody");
    hostile(fleet, lab);
    sh(lab, "rm -rf /srv/hostile /srv/lacking /tmp/saw /tmp/ran /tmp/mark");
}

/// An index over HTTP that has one package, none at all, and one that says no.
fn indexes(lab: &Lab, outdated: &dyn Fn(i32) -> Value) {
    sh(
        lab,
        "mkdir -p /srv/index/simple/idna && cd /srv/index/simple/idna && \
         cp /opt/omnidoc/wheelhouse/idna-*.whl . && \
         for f in *.whl; do echo \"<a href=\\\"$f\\\">$f</a><br>\"; done > index.html && \
         cp /opt/omnidoc/.venv/pip.conf /srv/index/pip.conf",
    );
    serve(lab, "/srv/index", "8077");
    let index = |port: &str| {
        let text = format!("[global]\nindex-url = http://127.0.0.1:{port}/simple/\n");
        lab.write("h1", "/opt/omnidoc/.venv/pip.conf", &text);
    };
    index("8077");
    let seen = outdated(0);
    assert_eq!(seen["data"]["packages"].as_array().map(Vec::len), Some(1), "{seen}");
    stop(lab, "8077");
    let silent = outdated(3);
    assert!(summary(&silent).contains("does not answer"), "{silent}");
    assert!(silent["data"]["environments"][0].get("outdated").is_none_or(Value::is_null));
    let no = "server { listen 127.0.0.1:8078; location / { return 403; } }";
    lab.write("h1", "/etc/nginx/conf.d/no.conf", no);
    lab.exec("h1", &["systemctl", "reload", "nginx"]);
    index("8078");
    eventually("it is forbidden", || summary(&outdated(3)).contains("403"));
    sh(
        lab,
        "rm /etc/nginx/conf.d/no.conf; systemctl reload nginx; \
         cp /srv/index/pip.conf /opt/omnidoc/.venv/pip.conf; rm -r /srv/index",
    );
}

/// What others can write is not run as root, nor as its owner.
fn hostile(fleet: &Fleet, lab: &Lab) {
    sh(
        lab,
        "mkdir -p /srv/hostile/bin && touch /srv/hostile/pyvenv.cfg && cd /srv/hostile/bin && \
         printf '#!/bin/sh\\nid -u > /tmp/ran; env > /tmp/saw\\n' > python && chmod 755 python && \
         chown -R omnidoc: /srv/hostile && rm -f /tmp/ran /tmp/saw",
    );
    on(fleet, "h1", &["pip", "outdated", "hostile"], 3);
    assert_eq!(sh(lab, "cat /tmp/ran"), sh(lab, "id -u omnidoc"));
    let saw = sh(lab, "cut -d= -f1 /tmp/saw | sort | tr '\\n' ' '");
    assert!(saw.contains("HOME LC_ALL") && !saw.contains("INVOCATION_ID"), "{saw}");
    sh(lab, "rm -f /tmp/ran; chown -R root: /srv/hostile; chown omnidoc /srv/hostile/bin/python");
    on(fleet, "h1", &["pip", "outdated", "hostile"], 3);
    assert_eq!(sh(lab, "cat /tmp/ran").trim(), "65534");
    sh(lab, "rm -f /tmp/ran; chown -R omnidoc: /srv/hostile; chmod 777 /srv/hostile/bin");
    let refused = on(fleet, "h1", &["pip", "outdated", "hostile"], 3);
    assert!(summary(&refused).contains("others than omnidoc can write"), "{refused}");
    assert!(!lab.succeeds("h1", &["test", "-e", "/tmp/ran"]));
}

/// A package as a registry tells of it.
const LEFT_PAD: &str = r#"{"name": "left-pad", "dist-tags": {"latest": "2.0.0"}, "versions": {
    "1.1.0": {"name": "left-pad", "version": "1.1.0", "dist": {"tarball": "http://127.0.0.1:8079/l.tgz",
        "shasum": "84a2b1d7a9a2c2d0a5f1ed3b2b7c5e1c7c2b1a6f"}},
    "2.0.0": {"name": "left-pad", "version": "2.0.0", "deprecated": "use padStart",
        "dist": {"tarball": "http://127.0.0.1:8079/m.tgz",
        "shasum": "94a2b1d7a9a2c2d0a5f1ed3b2b7c5e1c7c2b1a6f"}}}}"#;

fn pnpm_outdated(fleet: &Fleet, lab: &Lab) {
    sh(lab, "mkdir -p /srv/registry /srv/web /srv/npm");
    lab.write("h1", "/srv/registry/left-pad", LEFT_PAD);
    let package = r#"{"name": "web", "private": true, "dependencies": {"left-pad": "^1.1.0"}}"#;
    lab.write("h1", "/srv/web/package.json", package);
    lab.write("h1", "/srv/web/.npmrc", "registry=http://127.0.0.1:8079/\n");
    serve(lab, "/srv/registry", "8079");
    sh(lab, "chown -R omnidoc: /srv/web; rm -rf ~omnidoc/.cache/pnpm");
    let outdated = |name: &str, code: i32| on(fleet, "h1", &["pnpm", "outdated", name], code);
    let unlocked = outdated("web", 3);
    assert!(summary(&unlocked).contains("no pnpm-lock.yaml"), "{unlocked}");
    as_omnidoc(lab, "cd /srv/web && /usr/local/bin/pnpm install --lockfile-only");
    let own =
        as_omnidoc(lab, "cd /srv/web && /usr/local/bin/pnpm outdated --format json || test $? = 1");
    let own: Value = serde_json::from_str(&own).expect("pnpm's list");
    sh(lab, "rm -rf ~omnidoc/.cache/pnpm ~omnidoc/.local/state/pnpm");
    let seen = outdated("web", 0);
    let package = &seen["data"]["packages"][0];
    for (ours, theirs) in [
        ("wanted", "wanted"),
        ("latest", "latest"),
        ("kind", "dependencyType"),
        ("deprecated", "isDeprecated"),
    ] {
        assert_eq!(package[ours], own["left-pad"][theirs], "{seen} {own}");
    }
    assert_eq!((&package["jump"], &package["deprecated"]), (&"major".into(), &true.into()));
    assert_eq!(seen["data"]["frontends"][0]["user"], "omnidoc");
    let kept = "find ~omnidoc/.cache ~omnidoc/.local/state -path '*pnpm*' 2>/dev/null | wc -l";
    assert_eq!(sh(lab, kept).trim(), "0", "nothing is left behind");
    stop(lab, "8079");
    let silent = outdated("web", 3);
    assert!(summary(&silent).contains("127.0.0.1:8079"), "{silent}");

    sh(lab, "cd /srv/npm && echo '{}' > package.json && echo '{}' > package-lock.json");
    let npm = outdated("npm", 3);
    assert!(summary(&npm).contains("package-lock.json of npm"), "{npm}");
    sh(lab, "rm -r /srv/web /srv/npm /srv/registry");
}

/// Makes something in the directory of dumps, as old as it says.
fn dump(lab: &Lab, name: &str, age: &str, script: &str) {
    let url = ". /opt/omnidoc/.env; cd /srv/dumps";
    let dated =
        format!("touch -d '-{age}' {name}; [ ! -d {name} ] || touch -d '-{age}' {name}/toc.dat");
    sh(lab, &format!("{url}; {script}; {dated}"));
}

fn backups(fleet: &Fleet, lab: &Lab) {
    let look = |more: &[&str], code: i32| {
        let args = [&["postgres", "backups", "dumps"], more].concat();
        on(fleet, "h1", &args, code)
    };
    assert_eq!(look(&[], 1)["status"], "critical", "there is no directory");
    sh(lab, "mkdir -p /srv/dumps");
    assert!(summary(&look(&[], 1)).contains("holds no backup"));
    let all = [
        ("custom", "80 hours", "pg_dump -Fc -f custom \"$DATABASE_URL\"", "custom"),
        ("piped", "76 hours", "pg_dump -Fc \"$DATABASE_URL\" | cat > piped", "custom"),
        ("directory", "72 hours", "pg_dump -Fd -j 2 -f directory \"$DATABASE_URL\"", "directory"),
        ("tar", "68 hours", "pg_dump -Ft -f tar \"$DATABASE_URL\"", "tar"),
        ("gzip", "48 hours", "pg_dump \"$DATABASE_URL\" | gzip > gzip", "plain gzip"),
        ("plain", "24 hours", "pg_dump \"$DATABASE_URL\" > plain", "plain"),
    ];
    for (name, age, script, _) in all {
        dump(lab, name, age, script);
    }
    sh(lab, "ln -s plain /srv/dumps/latest");
    for more in [&[][..], &["--verify"]] {
        let seen = look(more, 0);
        let list = seen["data"]["backups"].as_array().expect("backups").clone();
        assert_eq!(list.len(), all.len(), "{seen}");
        for ((name, _, _, kind), backup) in all.iter().rev().zip(&list) {
            assert_eq!((&backup["file"], &backup["kind"]), (&(*name).into(), &(*kind).into()));
            assert_eq!(backup["state"], "whole", "{backup}");
            assert!(more.is_empty() || backup["read"] == true, "{backup}");
        }
        assert!(summary(&seen).contains("none is proven"), "{seen}");
        assert_eq!(list[5]["database"], "omnidoc");
        let version = lab.exec("h1", &["pg_dump", "--version"]);
        assert!(version.contains(list[5]["pg_dump"].as_str().expect("a version")), "{seen}");
    }
    // Each of them, cut in the middle, is found out, as pg_restore would find out only when it reads all.
    for (name, ..) in all.iter().filter(|(name, ..)| *name != "directory") {
        let cut = format!("head -c $(($(stat -c %s {name}) * 6 / 7)) {name} > cut");
        dump(lab, "cut", "1 hour", &cut);
        let seen = look(&[], 1);
        assert!(summary(&seen).contains("the newest backup, cut, is broken"), "{name}: {seen}");
    }
    sh(lab, "rm /srv/dumps/cut");
    dump(
        lab,
        "part",
        "1 hour",
        "cp -r directory part && rm part/$(ls -S part | grep dat.gz | head -1)",
    );
    assert!(summary(&look(&[], 1)).contains("which it names, is missing"));
    sh(lab, "rm /srv/dumps/part/toc.dat; touch -d '-1 hour' /srv/dumps/part /srv/dumps/part/*");
    assert!(summary(&look(&[], 1)).contains("has no toc.dat"));
    sh(lab, "rm -r /srv/dumps/part");
    // The backup script of a runbook, with a password that is wrong.
    dump(
        lab,
        "failed.sql.gz",
        "1 hour",
        "pg_dump postgresql://omnidoc:no@127.0.0.1/omnidoc | gzip > failed.sql.gz",
    );
    let failed = look(&[], 1);
    assert!(summary(&failed).contains("what is compressed in it is empty"), "{failed}");
    assert!(failed["data"]["backups"][0]["bytes"].as_u64().is_some_and(|n| n < 30), "{failed}");
    sh(lab, "rm /srv/dumps/failed.sql.gz");
    dump(
        lab,
        "other",
        "1 hour",
        "PGPASSWORD=hostler-pw pg_dump -Fc -h 127.0.0.1 -U hostler -f other postgres",
    );
    let other = look(&[], 0);
    assert_eq!(other["status"], "warning", "{other}");
    assert!(other["findings"].to_string().contains("is of the database postgres"), "{other}");
    // The newest gone, what is left is too old.
    sh(lab, "cd /srv/dumps && rm other plain latest");
    assert!(summary(&look(&[], 1)).contains("is 2 d old; 26 h are allowed"));
    let old = on(fleet, "h1", &["postgres", "backups", "old"], 1);
    assert!(summary(&old).contains("is a dump of PostgreSQL that is known"), "{old}");
    let forbidden = on(fleet, "h1", &["postgres", "backups", "forbidden"], 3);
    assert!(forbidden.to_string().contains("policy.paths"), "{forbidden}");
    sh(lab, "rm -r /srv/dumps");
}
