//! The parameters of a URL.

use percent_encoding::percent_decode_str;

/// What stands behind the `?` of a URL: the name of each parameter as it is meant, and the whole of it as it
/// is written.
pub fn parameters(url: &str) -> impl Iterator<Item = (String, &str)> {
    let (_, query) = url.split_once('?').unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| (meant(pair.split('=').next().unwrap_or_default()), pair))
}

/// A part of it as it is meant: `%5B` is a bracket.
pub(super) fn meant(written: &str) -> String {
    percent_decode_str(&written.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_as_they_are_meant_however_they_are_written() {
        let url = "postgres://u@h/db?sslmode=require&options%5Bx%5d=a=b&%&plain&&ssl%70assword=1";
        let names: Vec<String> = parameters(url).map(|(name, _)| name).collect();
        assert_eq!(names, ["sslmode", "options[x]", "%", "plain", "sslpassword"]);
        assert_eq!(parameters(url).nth(1).expect("a parameter").1, "options%5Bx%5d=a=b");
        assert_eq!(parameters("postgres://u@h/db").count(), 0);
        for (written, expected) in [("a+b%20c", "a b c"), ("%c3%A4%", "ä%"), ("%zz%4", "%zz%4")] {
            assert_eq!(meant(written), expected);
        }
    }
}
