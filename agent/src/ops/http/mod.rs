//! HTTP endpoints, as seen from the host.

mod check;
pub(super) mod request;

use hyper::Uri;

use crate::host::place::Place;

/// Where a URL leads; none where it names no host.
pub(super) fn place(url: &str) -> Option<Place> {
    let uri: Uri = url.parse().ok()?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some(Place::at(uri.host()?, uri.port_u16().unwrap_or(usual)))
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
            ("/health", None),
        ] {
            assert_eq!(place(url).map(|place| place.to_string()).as_deref(), expected, "{url}");
        }
    }
}
