//! Why there is no connection, in the words of whoever knows it best.

/// The innermost of what is said.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// What a server says of a certificate that it does not take, in the words of rustls.
const OF_OURS: [&str; 7] = [
    "alert: UnknownCA",
    "alert: BadCertificate",
    "alert: UnsupportedCertificate",
    "alert: CertificateRevoked",
    "alert: CertificateExpired",
    "alert: CertificateUnknown",
    "alert: AccessDenied",
];

/// What a certificate is wrong about that shows nothing of the other one, in words for whoever wrote the stack
/// file; the library's own are at the end of what is said.
pub(super) fn own_fault(said: &str) -> Option<&'static str> {
    match () {
        // Alert 116 of TLS 1.3.
        () if said.contains("CertificateRequired") => {
            Some("it asks its clients for a certificate, and none is named for the agent")
        }
        // Alerts about a certificate that it was shown.
        () if OF_OURS.iter().any(|alert| said.ends_with(alert)) => {
            Some("it does not take the certificate that is named for the agent")
        }
        // Other clients take such a one where they are given it as their authority.
        () if said.contains("CaUsedAsEndEntity") => Some(
            "its certificate is that of an authority (CA:TRUE), which the agent takes from no server: \
             issue one beneath it",
        ),
        () => None,
    }
}

/// Whether it is that the other one's certificate does not show that it is the one: the words are
/// rustls', and hidden in an error of input and output.
pub(super) fn untrusted(said: &str) -> bool {
    said.contains("certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stack_file_lacks_is_told_from_a_server_that_is_not_the_one() {
        let asked = own_fault("received fatal alert: CertificateRequired").expect("words");
        assert!(asked.contains("asks its clients for a certificate"), "{asked}");
        let ours = own_fault("received fatal alert: UnknownCA").expect("words");
        assert!(ours.contains("does not take"), "{ours}");
        let authority = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
        assert!(untrusted(authority) && own_fault(authority).is_some());
        let other = "invalid peer certificate: UnknownIssuer";
        assert!(untrusted(other) && own_fault(other).is_none());
    }
}
