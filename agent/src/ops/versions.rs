//! How far one version of a package is from another.

/// The first part in which two versions differ: "major", "minor" or "patch"; empty when they cannot be
/// compared.
pub(super) fn jump(from: &str, to: &str) -> &'static str {
    let (Some(from), Some(to)) = (release(from), release(to)) else { return "" };
    match [from[0] != to[0], from[1] != to[1]] {
        [true, _] => "major",
        [_, true] => "minor",
        _ => "patch",
    }
}

/// The first two numbers of a version, after its epoch: `1!2.3.4rc1` is 2 and 3. An epoch counts as
/// another first number.
fn release(version: &str) -> Option<[u64; 2]> {
    let version = version.trim_start_matches('v');
    let (epoch, version) = version.split_once('!').unwrap_or(("0", version));
    let mut parts = version.split(['.', '-', '+']).map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..digits).and_then(|d| d.parse::<u64>().ok())
    });
    let epoch: u64 = epoch.parse().ok()?;
    let first = parts.next().flatten()?.checked_add(epoch.checked_mul(1 << 40)?)?;
    Some([first, parts.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_part_that_differs_counts() {
        for (from, to, expected) in [
            ("1.26.0", "2.0.0", "major"),
            ("1.26.0", "1.27.0", "minor"),
            ("1.26.0", "1.26.1", "patch"),
            ("3.6", "3.20", "minor"),
            ("4", "4.1", "minor"),
            ("2.9.0.post0", "2.9.0.post1", "patch"),
            ("1.0rc1", "1.0", "patch"),
            ("2024.1", "1!1.0", "major"),
            ("13.0.0-canary.1", "14.0.0", "major"),
            ("link:../x", "1.0.0", ""),
        ] {
            assert_eq!(jump(from, to), expected, "{from} {to}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_calls_itself_a_version_ends_the_agent(from in ".{0,40}", to in "[0-9!.a-z-]{0,40}") {
            jump(&from, &to);
        }
    }
}
