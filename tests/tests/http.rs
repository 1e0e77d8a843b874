//! `http.check` against a server with TLS, from a host that trusts one authority of the test's own.

use std::{fs, path::Path};

use hostler_tests::{
    fleet::{Fleet, Place},
    process::{Process, command, eventually},
    servers::free_port,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    date_time_ymd,
};
use serde_json::Value;

/// Days that the server's certificate has left.
const DAYS: &str = "20";

/// An authority in `ca.pem`, and a certificate of it for `localhost` in `own.pem` and `own.key`.
fn certificates(directory: &Path) {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut authority = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // An authority is known by its name first.
    authority.distinguished_name.push(DnType::CommonName, directory.display().to_string());
    let authority_key = key();
    let certificate = authority.self_signed(&authority_key).expect("signed");
    fs::write(directory.join("ca.pem"), certificate.pem()).expect("written");
    let issuer = Issuer::new(authority, authority_key);
    let own_key = key();
    let mut own = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let mut date = command("/usr/bin/date");
    let end = date.args(["-u", "-d", &format!("{DAYS} days"), "+%Y %m %d"]).output().expect("date");
    let end = String::from_utf8(end.stdout).expect("text");
    let end: Vec<u16> = end.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let small = |at: usize| u8::try_from(end[at]).expect("a day");
    own.not_after = date_time_ymd(end[0].into(), small(1), small(2));
    let own = own.signed_by(&own_key, &issuer).expect("signed");
    fs::write(directory.join("own.pem"), own.pem()).expect("written");
    fs::write(directory.join("own.key"), own_key.serialize_pem()).expect("written");
}

fn serve(directory: &Path) -> (Process, u16) {
    let port = free_port();
    let script = format!(
        "import http.server, ssl\n\
         s = http.server.ThreadingHTTPServer(('127.0.0.1', {port}), http.server.SimpleHTTPRequestHandler)\n\
         c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
         c.load_cert_chain('own.pem', 'own.key')\n\
         s.socket = c.wrap_socket(s.socket, server_side=True)\n\
         s.serve_forever()"
    );
    let mut python = command("/usr/bin/python3");
    python.args(["-c", &script]).current_dir(directory);
    let server = Process::start(&mut python, &directory.join("server.log"));
    eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (server, port)
}

#[test]
fn a_certificate_is_judged_by_its_days_its_name_and_its_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let other = directory.path().join("other");
    fs::create_dir(&other).expect("a directory");
    certificates(directory.path());
    certificates(&other);
    let (_server, port) = serve(directory.path());
    let (_stranger, strange) = serve(&other);
    let trusted = directory.path().join("ca.pem").display().to_string();
    let mut fleet = Fleet::with(Place::Loopback, "", vec![("SSL_CERT_FILE", trusted)]);
    fleet.join("web-1", &[], "");
    let check = |url: String, code: i32| {
        let args = ["http", "check", url.as_str(), "--on", "web-1", "-o", "json"];
        fleet.ctl(&args).exits(code).json()[0].clone()
    };
    let days =
        |seen: &Value| seen["data"]["certificate_left_s"].as_f64().expect("a time") / 86_400.0;
    let near = |seen: &Value| (18.9..20.1).contains(&days(seen));

    let seen = check(format!("https://localhost:{port}/"), 0);
    assert!(near(&seen) && seen["data"]["status"] == 200, "{seen}");
    assert!(seen["data"]["tls_s"].as_f64().is_some_and(|s| s > 0.0), "{seen}");
    // Below 21 days it is a warning.
    assert_eq!(seen["status"], "warning", "{seen}");
    let end = seen["summary"].as_str().expect("text");
    assert!(end.starts_with("the certificate of https://localhost:"), "{seen}");

    for (url, why) in [
        (format!("https://127.0.0.1:{port}/"), "not valid for"),
        (format!("https://localhost:{strange}/"), "UnknownIssuer"),
    ] {
        let seen = check(url, 1);
        let summary = seen["findings"].to_string();
        assert!(
            seen["status"] == "critical" && summary.contains("the TLS handshake with"),
            "{seen}"
        );
        assert!(summary.contains(why), "{why}: {seen}");
        // Whoever signed it and whatever it is for, its end is told.
        assert!(near(&seen), "{seen}");
    }
}
