//! Sizes of memory as texts: `512MiB`, `1g`. Units are powers of 1024, whatever their letters, as Docker reads them.

/// The engine refuses a smaller memory limit.
pub(super) const LEAST_MEMORY: u64 = 6 << 20;

/// Bytes; none when the text is not a size.
pub(super) fn parse(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift: u32 = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Nine digits behind the point are more than anybody means, and keep the sum within 128 bits.
    if whole.is_empty() || part.is_empty() || part.len() > 9 || part.contains('.') {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(part.len()).ok()?);
    let units = u128::from(whole.parse::<u64>().ok()?) * scale + u128::from(part.parse::<u64>().ok()?);
    u64::try_from(units.checked_mul(1 << shift)? / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64k", 64 << 10),
            ("512MiB", 512 << 20),
            ("512 MB", 512 << 20),
            ("1g", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("2t", 2 << 40),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "g", ".5g", "1.g", "1..5g", "1.5.2g", "-1", "1x", "1e9", "99999999999999999999", "99999999t"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
