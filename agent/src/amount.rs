//! Amounts as they stand in sentences: in their largest whole unit.

/// Seconds of a day.
pub const DAY_S: f64 = 86_400.0;

/// A time span.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "none is below zero")]
pub fn span(seconds: f64) -> String {
    match seconds as u64 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// A size.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..2048 => format!("{bytes} bytes"),
        2048..2_097_152 => format!("{} KiB", bytes >> 10),
        2_097_152..2_147_483_648 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_a_unit_in_which_they_are_at_least_two() {
        let spans = [0.0, 119.9, 120.0, 7199.0, 7200.0, 172_799.0, 172_800.0].map(span);
        assert_eq!(spans, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
        let sizes = [0, 2047, 2048, (2 << 20) - 1, 2 << 20, 2 << 30].map(size);
        assert_eq!(sizes, ["0 bytes", "2047 bytes", "2 KiB", "2047 KiB", "2 MiB", "2 GiB"]);
    }
}
