//! What a stack file names that can never work: URLs that their clients do not read, paths that lead
//! somewhere else with each start. It is refused when the file is read, and not first seen as a check that
//! is UNKNOWN.

use std::path::Path;

use hostler_proto::{args, catalogue::Catalogue};

use super::definition::InvalidCheck;
use crate::{
    host::{postgres, query::parameters, redis},
    ops::http,
    stack::{Postgres, Stack},
};

/// Whether everything that a stack file names can be asked.
pub(super) fn possible(stack: &Stack, catalogue: &Catalogue) -> Result<(), InvalidCheck> {
    for entry in &stack.postgres {
        let read = |url: &str| match postgres::options(url) {
            // What drivers of languages write behind a '+' is nothing to the server.
            Ok(_) if url.starts_with("postgres") => Ok(()),
            Ok(_) => Err("it does not begin with postgres://".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let form = "postgres://USER@HOST:PORT/DATABASE";
        let check = format!("postgres:{}", entry.name);
        server(&check, &entry.url, read, form)?;
        for (name, path) in postgres::named_files(&entry.url) {
            absolute(&check, &name, &path)?;
        }
    }
    for entry in &stack.redis {
        let form = "redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH";
        let check = format!("redis:{}", entry.name);
        server(&check, &entry.url, redis::readable, form)?;
        if entry.cert_file.is_some() != entry.key_file.is_some() {
            return Err(wrong(&check, "its cert_file and key_file belong together".to_owned()));
        }
    }
    endpoints(stack, catalogue)?;
    let git = stack.git.iter().map(|entry| ("git", &entry.name, "path", &entry.path));
    let pip = stack.virtualenvs.iter().map(|entry| ("pip", &entry.name, "path", &entry.path));
    let pnpm = stack.frontends.iter().flat_map(|entry| {
        let own = entry.pnpm.iter().map(|path| ("pnpm", path));
        let paths = [("path", &entry.path)].into_iter().chain(own);
        paths.map(|(key, path)| ("pnpm", &entry.name, key, path))
    });
    let backups = stack.backups.iter();
    let backups = backups.map(|entry| ("backups", &entry.name, "directory", &entry.directory));
    let secrets = stack.postgres.iter().flat_map(|entry| {
        entry.password_file.iter().map(|path| ("postgres", &entry.name, "password_file", path))
    });
    let redis = stack.redis.iter().flat_map(|entry| {
        let secret = entry.password_file.iter().map(|path| ("password_file", path));
        let files = secret.chain(entry.ca_file.iter().map(|path| ("ca_file", path)));
        let files = files.chain(entry.cert_file.iter().map(|path| ("cert_file", path)));
        let files = files.chain(entry.key_file.iter().map(|path| ("key_file", path)));
        files.map(|(key, path)| ("redis", &entry.name, key, path))
    });
    let celery = stack.celery.iter().flat_map(|entry| {
        let file = entry.environment_file.iter();
        file.map(|path| ("celery", &entry.name, "environment_file", path))
    });
    let files = secrets.chain(redis).chain(celery);
    for (kind, name, key, path) in git.chain(pip).chain(pnpm).chain(backups).chain(files) {
        absolute(&format!("{kind}:{name}"), key, path)?;
    }
    Ok(())
}

fn absolute(check: &str, key: &str, path: &Path) -> Result<(), InvalidCheck> {
    match path.is_absolute() {
        true => Ok(()),
        false => Err(wrong(check, format!("its {key} {path:?} is no absolute path"))),
    }
}

fn wrong(check: &str, problem: String) -> InvalidCheck {
    InvalidCheck::Check { name: check.to_owned(), problem }
}

/// The URL itself is not told: it may hold a password where nobody looks for one.
fn server(
    check: &str,
    url: &str,
    read: impl Fn(&str) -> Result<(), String>,
    form: &str,
) -> Result<(), InvalidCheck> {
    if has_password(url) {
        let problem =
            "its url holds a password; put that into a file and name it with password_file";
        return Err(wrong(check, problem.to_owned()));
    }
    read(url).map_err(|why| wrong(check, format!("its url cannot be read ({why}); write {form}")))
}

/// A password in a URL would be shown wherever the URL is.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    // `pass` and `password`, and `sslpassword`, which is that of a key.
    let asked = parameters(url).any(|(name, _)| name.to_ascii_lowercase().contains("pass"));
    // Some are written as they are, with a '/' or a '?' that ends the address for whoever reads it.
    let written = match place.rsplit_once('@') {
        Some((user, _)) => user.contains(':'),
        None => {
            let address = place.split('/').next().unwrap_or_default();
            let port = address.rsplit_once(':').map_or("", |(_, port)| port);
            query.contains('@') && !port.bytes().all(|b| b.is_ascii_digit())
        }
    };
    asked || written
}

/// What its clients do not read of what a stack file names, without the values.
pub fn unread(stack: &Stack) -> Vec<String> {
    let of = |entry: &Postgres| {
        let names = postgres::unread(&entry.url);
        let (check, names) = (format!("postgres:{}", entry.name), names.join(", "));
        (!names.is_empty()).then(|| {
            format!("check {check:?}: nothing heeds {names:?} of the parameters in its url")
        })
    };
    stack.postgres.iter().filter_map(of).collect()
}

/// Whether every endpoint can be requested, also one whose check is switched off or asks for another: it is
/// looked at, and shown, beside its check.
fn endpoints(stack: &Stack, catalogue: &Catalogue) -> Result<(), InvalidCheck> {
    let named = stack.http.iter().map(|http| (format!("http:{}", http.name), &http.url));
    let status = stack.nginx.iter().flat_map(|nginx| &nginx.status_url);
    for (check, url) in named.chain(status.map(|url| ("nginx".to_owned(), url))) {
        let spec = catalogue.get("http.check").map_err(|e| wrong(&check, e.to_string()))?;
        let form = args::from_text(spec, [("url", url.as_str())]);
        form.map_err(|e| wrong(&check, e.to_string()))?;
        if http::place(url).is_none() {
            return Err(wrong(&check, format!("its url {url} names no host and port")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let stack: Stack = toml::from_str(text).expect(text);
        possible(&stack, Catalogue::embedded()).expect_err(text).to_string()
    }

    #[test]
    fn a_url_that_its_client_does_not_read_is_refused_and_not_shown() {
        let form = "; write postgres://USER@HOST";
        for (kind, url, says) in [
            ("postgres", "host=/run dbname=x password=hunter2", form),
            ("postgres", "mysql://x", "does not begin with postgres://"),
            ("postgres", "postgres://u@127.0.0.1:99999/x", "invalid port number"),
            ("postgres", "", form),
            ("redis", "redis//x", "; write redis://HOST"),
            ("redis", "http://x/", "; write redis://HOST"),
            ("redis", "redis://127.0.0.1:99999/0", "; write redis://HOST"),
            ("redis", "redis://127.0.0.1/hunter2", "; write redis://HOST"),
            ("redis", "redis://127.0.0.1/-1", "no database is below 0"),
            ("redis", "unix:///run/redis.sock?db=-1", "no database is below 0"),
        ] {
            let said = refused(&format!("[[{kind}]]\nname = \"main\"\nurl = \"{url}\"\n"));
            let check = format!("check \"{kind}:main\": its url cannot be read (");
            assert!(said.starts_with(&check) && said.contains(says), "{url}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let driver = "[[postgres]]\nname = \"a\"\nurl = \"postgresql+psycopg://u@127.0.0.1/x\"\n";
        let stack: Stack = toml::from_str(driver).expect("a stack file");
        assert!(possible(&stack, Catalogue::embedded()).is_ok(), "it always could be asked");
        for text in [
            "[[http]]\nname = \"a\"\nurl = \"http://127.0.0.1:99999/\"\n",
            "[nginx]\nstatus_url = \"http://127.0.0.1:99999/\"\n",
        ] {
            assert!(refused(text).contains("127.0.0.1:99999/ names no host and port"));
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_however_that_is_called_and_it_is_not_shown() {
        for url in [
            "postgres://u@127.0.0.1/x?sslpassword=hunter2",
            "postgres://u@127.0.0.1/x?sslmode=require&PassWord=hunter2",
            "postgres://u@127.0.0.1/x?ssl%70assword=hunter2",
            "postgres://u:hunter2@127.0.0.1/x",
        ] {
            let said = refused(&format!("[[postgres]]\nname = \"main\"\nurl = \"{url}\"\n"));
            assert!(said.contains("its url holds a password"), "{url}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn parameters_that_nobody_heeds_are_named_without_their_values() {
        let url = "postgres://u@127.0.0.1/x?connect_timeout=hunter2&sslmode=require&tcp=hunter2";
        let text = format!(
            "[[postgres]]\nname = \"a\"\nurl = \"{url}\"\n\
             [[postgres]]\nname = \"b\"\nurl = \"postgres://u@127.0.0.1/x?sslmode=require\"\n"
        );
        let stack: Stack = toml::from_str(&text).expect("a stack file");
        let said = "check \"postgres:a\": nothing heeds \"connect_timeout, tcp\" of the parameters in \
                    its url";
        assert_eq!(unread(&stack), [said]);
    }

    #[test]
    fn a_path_that_is_not_absolute_is_refused() {
        for (kind, check, key) in [
            ("git", "git", "path"),
            ("virtualenv", "pip", "path"),
            ("frontend", "pnpm", "path"),
            ("backups", "backups", "directory"),
        ] {
            for path in ["opt/app", ""] {
                let said = refused(&format!("[[{kind}]]\nname = \"a\"\n{key} = \"{path}\"\n"));
                let expected =
                    format!("check \"{check}:a\": its {key} \"{path}\" is no absolute path");
                assert_eq!(said, expected);
            }
        }
        let said = refused("[[frontend]]\nname = \"a\"\npath = \"/a\"\npnpm = \"bin/pnpm\"\n");
        assert!(said.contains("its pnpm \"bin/pnpm\" is no absolute path"), "{said}");
        let said =
            refused("[[postgres]]\nname = \"a\"\nurl = \"postgres://a@h/x?sslrootcert=ca.pem\"\n");
        assert!(said.contains("its sslrootcert \"ca.pem\" is no absolute path"), "{said}");
        let alone = "[[redis]]\nname = \"a\"\nurl = \"rediss://h/0\"\ncert_file = \"/x\"\n";
        assert!(refused(alone).contains("belong together"));
        for (kind, entry, key) in [
            ("postgres", "url = \"postgres://a@h/x\"", "password_file"),
            ("redis", "url = \"redis://h/0\"", "password_file"),
            ("redis", "url = \"rediss://h/0\"", "ca_file"),
            ("redis", "url = \"rediss://h/0\"\ncert_file = \"/x\"", "key_file"),
            ("celery", "broker = \"main\"", "environment_file"),
        ] {
            let text =
                |path: &str| format!("[[{kind}]]\nname = \"a\"\n{entry}\n{key} = \"{path}\"\n");
            let expected = format!("check \"{kind}:a\": its {key} \"x\" is no absolute path");
            assert_eq!(refused(&text("x")), expected);
            let stack: Stack = toml::from_str(&text("/x")).expect("a stack file");
            assert!(possible(&stack, Catalogue::embedded()).is_ok(), "{kind} {key}");
        }
    }
}
