//! HTTP endpoints, as seen from the host.

mod check;
pub(super) mod request;

use hostler_proto::{
    args::masked,
    catalogue::Catalogue,
    operation::{HttpCheck, Operation},
};
use hyper::Uri;

use crate::host::place::Place;

/// Where a URL leads; none where it names no host.
pub(crate) fn place(url: &str) -> Option<Place> {
    let uri: Uri = url.parse().ok()?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let (host, authority) = (uri.host()?, uri.authority()?.as_str());
    let port = match authority.rsplit('@').next()?.strip_prefix(host)?.strip_prefix(':') {
        // Of one that is too large the library says that there is none.
        Some(port) if !port.is_empty() => port.parse().ok()?,
        _ => usual,
    };
    Some(Place::at(host, port))
}

/// A URL as people may see it. One of another form than `http.check` takes may hold a password anywhere
/// before its last `@`.
pub(super) fn shown(url: &str) -> String {
    let spec = Catalogue::bare().get(<HttpCheck as Operation>::NAME).ok();
    let form = spec.and_then(|spec| spec.parameter("url")).and_then(|url| url.pattern.as_ref());
    match form.is_some_and(|form| form.is_match(url)) {
        true => url.to_owned(),
        false => masked(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_of_a_url_are_known() {
        for (url, expected) in [
            ("http://localhost:8000/health", Some("localhost:8000")),
            ("https://web/?to=a:1@b", Some("web:443")),
            ("http://[::1]/", Some("[::1]:80")),
            ("http://127.0.0.1:65535", Some("127.0.0.1:65535")),
            ("http://127.0.0.1:99999/", None),
            ("http://[::1]:99999/", None),
            ("http://web:/", Some("web:80")),
            ("/health", None),
        ] {
            assert_eq!(place(url).map(|place| place.to_string()).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn nothing_is_shown_of_a_password_and_all_of_what_is_requested() {
        for url in [
            "http://web/a@b",
            "http://web:80/a@b",
            "https://[::1]:8443/@scope/pkg?to=a@b",
            "http://web?to=a@b",
        ] {
            assert_eq!(shown(url), url);
        }
        for url in [
            "https://me:secret@web/",
            "https://me:se/cret@web/",
            "https://me:se?cret@web/",
            "https://me:se#cret@web/",
            "https://me:/secret@web/",
            "https://me:123456/secret@web/",
            "https://[::1]:se/cret@web/",
            "https://secret@web/",
        ] {
            assert_eq!(shown(url), "https://***@web/");
        }
    }
}
