//! Why there is no connection, in the words of whoever knows it best.

/// The innermost of what is said.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Whether it is that the other one's certificate does not show that it is the one: the words are
/// rustls', and hidden in an error of input and output.
pub(super) fn untrusted(said: &str) -> bool {
    said.contains("certificate")
}
