//! A directory of keys as one JSON object: each key below it is a member, its value the member's.

use super::failure::Failure;

/// The object, with one member a line. `keys` are whole keys below `directory` (which ends in `/`) with their values,
/// in the order wanted. None when there are none. Numbers stay as they are written.
pub(super) fn merge(directory: &str, keys: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<Vec<u8>>, Failure> {
    let bad = |key: &[u8], why| Failure::Merge { key: String::from_utf8_lossy(key).into_owned(), why };
    let mut members = Vec::new();
    for (key, value) in keys {
        let name = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(directory));
        let name = name.ok_or_else(|| bad(key, "its name is not text"))?;
        if name.is_empty() {
            // The mark of an empty directory, which `--serve-v2` makes.
            continue;
        }
        if name.contains('/') {
            return Err(bad(key, "it lies deeper than one level below the directory"));
        }
        let text = std::str::from_utf8(value).map_err(|_| bad(key, "its value is not text"))?;
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        if !is_json {
            return Err(bad(key, "its value is not JSON"));
        }
        members.push(format!("{}:{}", serde_json::Value::from(name), text.trim()));
    }
    let object = format!("{{\n{}\n}}\n", members.join(",\n"));
    Ok((!members.is_empty()).then(|| object.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[(&str, &str)]) -> Result<Option<String>, String> {
        let keys: Vec<_> =
            keys.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        let merged = merge("/v/config/", &keys).map_err(|error| error.line())?;
        Ok(merged.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn members_keep_their_text() {
        let merged = of(&[
            ("/v/config/", ""),
            ("/v/config/big", "{\"n\": 340282366920938463463374607431768211456}\n"),
            ("/v/config/we\"ird", " 1.50 "),
        ]);
        let expected = "{\n\"big\":{\"n\": 340282366920938463463374607431768211456},\n\"we\\\"ird\":1.50\n}\n";
        assert_eq!(merged.unwrap().unwrap(), expected);
        assert!(serde_json::from_str::<serde_json::Value>(expected).is_ok());
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("/v/config/", "")]).unwrap(), None);
    }

    #[test]
    fn what_is_no_object_is_refused_without_its_value() {
        for (key, value, why) in [
            ("/v/config/a", "canary", "is not JSON"),
            ("/v/config/a", "", "is not JSON"),
            ("/v/config/a", "{} canary", "is not JSON"),
            ("/v/config/a/b", "{}", "deeper than one level"),
        ] {
            let error = of(&[("/v/config/0", "0"), (key, value)]).unwrap_err();
            assert!(error.contains(why) && error.contains(key) && !error.contains("canary"), "{error}");
        }
    }
}
