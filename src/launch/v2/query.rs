//! A request about keys, as `parseKeyRequest` of `api/v2http/client.go` reads it.

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::answer::{INDEX_NOT_A_NUMBER, INVALID_FIELD, INVALID_FORM, PREV_VALUE_REQUIRED, Refusal, TTL_NOT_A_NUMBER};

/// Below this path are the keys.
pub(super) const KEYS: &str = "/v2/keys";
/// Deeper paths are refused: each level may cost a question.
const DEEPEST: usize = 128;

/// A request about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the API")]
pub(super) struct Query {
    /// Begins with `/`, does not end with one unless it is the root.
    pub(super) path: String,
    pub(super) value: String,
    pub(super) prev_value: String,
    /// 0 when not given.
    pub(super) prev_index: i64,
    pub(super) prev_exist: Option<bool>,
    /// 0 when not given.
    pub(super) wait_index: i64,
    pub(super) is_recursive: bool,
    pub(super) is_wait: bool,
    pub(super) is_dir: bool,
    pub(super) is_quorum: bool,
    pub(super) no_value: bool,
}

/// The parameters of a request, those of the body first: the first one of a name counts.
struct Form(Vec<(String, String)>);

impl Form {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn index(&self, name: &str) -> Result<i64, Refusal> {
        let parse = |text: &str| {
            let wrong = || Refusal::new(INDEX_NOT_A_NUMBER, format!("invalid value for \"{name}\""), 0);
            // Not a sign: Go's unsigned numbers have none.
            let number = text.parse::<u64>().ok().filter(|_| !text.starts_with('+')).ok_or_else(wrong)?;
            // A revision has 63 bits; one beyond them is in the future all the same.
            Ok(i64::try_from(number).unwrap_or(i64::MAX))
        };
        self.get(name).map_or(Ok(0), parse)
    }

    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        Ok(self.choice(name, &format!("\"{name}\""))?.unwrap_or(false))
    }

    /// As Go's `strconv.ParseBool`. etcd quotes the names of all parameters but one.
    fn choice(&self, name: &str, shown: &str) -> Result<Option<bool>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(_) => Err(Refusal::new(INVALID_FIELD, format!("invalid value for {shown}"), 0)),
        }
    }
}

impl Query {
    /// From a method, a whole path, what follows the `?`, and the body of a form.
    pub(super) fn parse(method: &Method, path: &str, query: &str, body: &[u8]) -> Result<Self, Refusal> {
        let pairs = url::form_urlencoded::parse(body).chain(url::form_urlencoded::parse(query.as_bytes()));
        let form = Form(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect());
        let read = Self {
            path: clean(path.strip_prefix(KEYS).unwrap_or(path))?,
            prev_index: form.index("prevIndex")?,
            wait_index: form.index("waitIndex")?,
            is_recursive: form.flag("recursive")?,
            // All is sorted anyway.
            is_wait: form.flag("sorted").and_then(|_| form.flag("wait"))?,
            is_dir: form.flag("dir")?,
            is_quorum: form.flag("quorum")?,
            no_value: form.flag("noValueOnSuccess")?,
            prev_exist: form.choice("prevExist", "prevExist")?,
            prev_value: form.get("prevValue").unwrap_or_default().to_owned(),
            value: form.get("value").unwrap_or_default().to_owned(),
        };
        if read.is_wait && method != Method::GET {
            return Err(Refusal::new(INVALID_FIELD, "\"wait\" can only be used with GET requests", 0));
        }
        if form.get("prevValue") == Some("") {
            return Err(Refusal::new(PREV_VALUE_REQUIRED, "\"prevValue\" cannot be empty", 0));
        }
        if form.flag("stream")? {
            return Err(Refusal::new(INVALID_FIELD, "\"stream\" is not served here: wait for each event", 0));
        }
        match form.get("ttl") {
            None | Some("") => {}
            Some(ttl) if ttl.parse::<u64>().is_err() => {
                return Err(Refusal::new(TTL_NOT_A_NUMBER, "invalid value for \"ttl\"", 0));
            }
            Some(_) => return Err(Refusal::new(INVALID_FIELD, "\"ttl\" is not served here: keys do not expire", 0)),
        }
        if form.flag("refresh")? {
            return Err(Refusal::new(INVALID_FIELD, "\"refresh\" is not served here: keys do not expire", 0));
        }
        Ok(read)
    }
}

/// A percent-encoded path, decoded and without empty parts, `.` and `..`; as Go's `path.Clean`.
fn clean(encoded: &str) -> Result<String, Refusal> {
    let wrong = |why| Refusal::new(INVALID_FORM, why, 0);
    let decoded = percent_decode_str(encoded).decode_utf8().map_err(|_| wrong("the path is not UTF-8"))?;
    let mut parts = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.len() > DEEPEST {
        return Err(wrong("the path has more than 128 parts"));
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &Method, path: &str, query: &str, body: &str) -> Result<Query, u16> {
        Query::parse(method, path, query, body.as_bytes()).map_err(|refusal| refusal.error_code)
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in [
            ("", "/"),
            ("/", "/"),
            ("/a/b/", "/a/b"),
            ("//a/./b/../c%20d", "/a/c d"),
            ("/../..", "/"),
            ("/%2561", "/%61"),
            ("/%c3%a4", "/ä"),
        ] {
            assert_eq!(parse(&Method::GET, &format!("{KEYS}{path}"), "", "").unwrap().path, cleaned);
        }
        assert_eq!(parse(&Method::GET, "/v2/keys/%ff", "", ""), Err(210));
        assert_eq!(parse(&Method::GET, &format!("/v2/keys/{}", "a/".repeat(129)), "", ""), Err(210));
    }

    #[test]
    fn the_body_counts_before_the_query() {
        let read = parse(&Method::PUT, "/v2/keys/a", "value=query&prevIndex=7", "value=a+b%26&value=c").unwrap();
        assert_eq!((read.value.as_str(), read.prev_index), ("a b&", 7));
    }

    #[test]
    fn what_is_wrong_or_not_served_is_refused() {
        for (query, code) in [
            ("prevIndex=x", 203),
            ("waitIndex=-1", 203),
            ("waitIndex=%2B1", 203),
            ("recursive=yes", 209),
            ("prevExist=", 209),
            ("prevValue=", 201),
            ("wait=true", 209),
            ("ttl=x", 202),
            ("ttl=5", 209),
            ("refresh=true", 209),
            ("stream=true", 209),
        ] {
            assert_eq!(parse(&Method::PUT, "/v2/keys/a", query, ""), Err(code), "{query}");
        }
        assert!(parse(&Method::PUT, "/v2/keys/a", "ttl=&dir=T&quorum=1", "").is_ok());
    }
}
