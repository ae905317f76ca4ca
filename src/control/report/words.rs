//! Numbers as people read them.

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

/// A size: `12 B`, `4.00 KiB`, `1.50 MiB`.
pub fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
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
}
