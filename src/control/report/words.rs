//! Numbers as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::HumanBytes;

/// `1 host`, `2 hosts`.
pub fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A duration from milliseconds: `85 ms`, `1.8 s`, `2 min 5 s`.
pub fn duration(millis: u64) -> String {
    match millis {
        0..100 => format!("{millis} ms"),
        100..59_950 => {
            let tenths = (millis + 50) / 100;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        _ => {
            let seconds = (millis + 500) / 1000;
            format!("{} min {} s", seconds / 60, seconds % 60)
        }
    }
}

/// How long ago a moment was, given in seconds since 1970: `12 s ago`, `5 min ago`, `3 h ago`, `2 d ago`.
pub fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    match now.saturating_sub(at) {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

/// A size: `12 B`, `4.00 KiB`, `1.50 MiB`.
pub fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// A size in few characters, for lines that are redrawn: `12 B`, `4.0 KiB`, `1.5 MiB`, `150 MiB`.
pub(super) fn short_bytes(count: u64) -> String {
    let (number, unit) = short(count);
    format!("{number} {unit}")
}

/// How much of how much: `1.5 of 12.0 MiB`, `512 KiB of 1.2 MiB`.
pub(super) fn bytes_of(part: u64, whole: u64) -> String {
    let ((part, part_unit), (whole, unit)) = (short(part), short(whole));
    if part_unit == unit {
        format!("{part} of {whole} {unit}")
    } else {
        format!("{part} {part_unit} of {whole} {unit}")
    }
}

fn short(count: u64) -> (String, &'static str) {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return (count.to_string(), "B");
    }
    // In tenths of the unit, rounded; 128 bits hold ten times any count.
    let mut tenths = (u128::from(count) * 10 + 512) / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if tenths < 10_240 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = larger;
    }
    let number = if tenths < 1000 { format!("{}.{}", tenths / 10, tenths % 10) } else { (tenths / 10).to_string() };
    (number, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(plural(0, "host", "hosts"), "0 hosts");
        assert_eq!(plural(1, "key", "keys"), "1 key");
        assert_eq!(plural(2, "key", "keys"), "2 keys");
    }

    #[test]
    fn durations_are_short() {
        let cases = [(0, "0 ms"), (99, "99 ms"), (100, "0.1 s"), (1_849, "1.8 s"), (59_949, "59.9 s")];
        let more = [(59_950, "1 min 0 s"), (125_000, "2 min 5 s")];
        for (millis, text) in cases.into_iter().chain(more) {
            assert_eq!(duration(millis), text);
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536 * 1024), "1.50 MiB");
    }

    #[test]
    fn short_sizes_have_at_most_four_characters() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (12_897_485, "12.3 MiB")];
        let more = [(150 << 20, "150 MiB"), (1023 << 20, "1023 MiB"), (3 << 30, "3.0 GiB"), (u64::MAX, "16.0 EiB")];
        for (count, text) in cases.into_iter().chain(more) {
            assert_eq!(short_bytes(count), text);
        }
        assert_eq!(bytes_of(1 << 20, 12 << 20), "1.0 of 12.0 MiB");
        assert_eq!(bytes_of(512 << 10, 12 << 20), "512 KiB of 12.0 MiB");
    }
}
