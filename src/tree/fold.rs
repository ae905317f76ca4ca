//! Which names a file system may take for one: those that differ only in case or in how their characters are composed.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

/// Equal for names that a file system which folds case or normalises Unicode (ext4 and f2fs with casefold, XFS with
/// ascii-ci, ZFS, vfat, exFAT, NTFS, HFS+, APFS) may take for one. Compatible with each of them rather than exact for
/// any: names with different keys are different everywhere, names with one key need a question to the file system.
pub fn folded(name: &[u8]) -> Cow<'_, [u8]> {
    if name.iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    let Ok(text) = str::from_utf8(name) else { return Cow::Owned(name.to_ascii_lowercase()) };
    // Upper case first: it unfolds what has several lower cases, as the German sharp s and the final sigma.
    let upper: String = text.nfkd().flat_map(char::to_uppercase).collect();
    Cow::Owned(upper.nfkd().flat_map(char::to_lowercase).collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_file_system_takes_for_one_have_one_key() {
        for (one, other) in [
            ("README", "readme"),
            ("Straße", "STRASSE"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("CAF\u{c9}", "cafe\u{301}"),
            ("\u{39f}\u{3a3}", "\u{3bf}\u{3c2}"),
            ("\u{212b}", "\u{e5}"),
        ] {
            assert_eq!(folded(one.as_bytes()), folded(other.as_bytes()), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("cafe", "caf\u{e9}"), ("a", "a "), ("x", "x.")] {
            assert_ne!(folded(one.as_bytes()), folded(other.as_bytes()), "{one} {other}");
        }
        assert_eq!(folded(b"A\xff"), folded(b"a\xff"));
        assert_ne!(folded(b"a\xff"), folded(b"a\xfe"));
    }
}
