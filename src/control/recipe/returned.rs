//! What a recipe's functions return, checked.

use indexmap::IndexMap;
use starlark::values::{UnpackValue, Value, dict::DictRef, list::UnpackList};

use super::{ConfigValue, StoreSpec, error::Fault, session::Session, veil::Lifted};

/// Keys and texts, as `config(ctx)` returns them.
pub(super) fn config_values(value: Value<'_>, session: &Session) -> Result<IndexMap<String, ConfigValue>, Fault> {
    let Some(keys) = DictRef::from_value(value) else {
        return Err(Fault::evaluation(format!(
            "it returns a {}, not a dictionary of keys and texts",
            value.get_type()
        )));
    };
    let mut values = IndexMap::new();
    for (key, value) in keys.iter() {
        let Some(key) = key.unpack_str() else {
            return Err(Fault::evaluation("a key is not a text"));
        };
        session.whole_key("config", key)?;
        let Some(text) = value.unpack_str() else {
            return Err(Fault::evaluation(format!("the value of `{key}` is a {}, not a text", value.get_type()))
                .hint("make it a text: json.encode(value), ini(value) or str(value)"));
        };
        let value = match session.text(text)? {
            Lifted::Plain(text) => ConfigValue { bytes: text.into_bytes(), secret: false },
            Lifted::Secret(text) => ConfigValue { bytes: text.expose().clone().into_bytes(), secret: true },
        };
        values.insert(key.to_owned(), value);
    }
    Ok(values)
}

/// The prefixes that `prefix(ctx)` returns, relative to the lab's, each ending in `/`.
pub(super) fn prefixes(value: Value<'_>, session: &Session) -> Result<Vec<String>, Fault> {
    let texts = match value.unpack_str() {
        Some(text) => vec![text],
        None => match UnpackList::<&str>::unpack_value(value).ok().flatten() {
            Some(list) => list.items,
            None => {
                return Err(Fault::evaluation(format!(
                    "it returns a {}, not a text or a list of texts",
                    value.get_type()
                )));
            }
        },
    };
    if texts.is_empty() {
        return Err(Fault::evaluation("it returns no prefix"));
    }
    texts.into_iter().map(|text| Ok(format!("{}/", range(&session.plain("prefix", text)?)?))).collect()
}

/// What `access(ctx)` returns: what the login may read, and what it may write. Relative to the lab's prefix.
pub(super) fn access(value: Value<'_>, session: &Session) -> Result<(Vec<String>, Vec<String>), Fault> {
    let Some(fields) = DictRef::from_value(value) else {
        return Err(Fault::evaluation(format!("it returns a {}, not a dictionary", value.get_type())));
    };
    if let Some((name, _)) = fields.iter().find(|(name, _)| !matches!(name.unpack_str(), Some("read" | "write"))) {
        return Err(Fault::evaluation(format!("{} is neither `read` nor `write`", name.to_str())));
    }
    let ranges = |name: &str| {
        let Some(value) = fields.get_str(name) else { return Ok(Vec::new()) };
        let list = UnpackList::<&str>::unpack_value(value).ok().flatten();
        let list = list.ok_or_else(|| Fault::evaluation(format!("`{name}` is not a list of texts")))?;
        let one = |text: &str| {
            let text = session.plain(name, text)?;
            let end = if text.ends_with('/') { "/" } else { "" };
            Ok(format!("{}{end}", range(&text)?))
        };
        list.items.into_iter().map(one).collect::<Result<Vec<_>, Fault>>()
    };
    Ok((ranges("read")?, ranges("write")?))
}

/// A path of keys without `/` at its end.
fn range(text: &str) -> Result<&str, Fault> {
    let parts = text.strip_suffix('/').unwrap_or(text);
    let fits = parts.split('/').all(|part| !matches!(part, "" | "." | "..")) && !parts.contains('\0');
    if fits { Ok(parts) } else { Err(Fault::evaluation(format!("`{text}` is not a prefix: parts between single `/`"))) }
}

/// Where the store is, as `store(ctx)` returns it.
pub(super) fn store_spec(value: Value<'_>, session: &Session) -> Result<StoreSpec, Fault> {
    let Some(fields) = DictRef::from_value(value) else {
        return Err(Fault::evaluation(format!("it returns a {}, not a dictionary", value.get_type())));
    };
    let known = ["endpoints", "user", "password", "ca"];
    if let Some((name, _)) = fields.iter().find(|(name, _)| !known.iter().any(|known| name.unpack_str() == Some(known)))
    {
        return Err(Fault::evaluation(format!("{} is not one of {}", name.to_str(), known.join(", "))));
    }
    let text = |name: &str| match fields.get_str(name) {
        Some(value) => value.unpack_str().ok_or_else(|| Fault::evaluation(format!("`{name}` is not a text"))),
        None => Err(Fault::evaluation(format!("`{name}` is missing"))),
    };
    let endpoints =
        fields.get_str("endpoints").and_then(|value| UnpackList::<&str>::unpack_value(value).ok().flatten());
    let endpoints = endpoints.ok_or_else(|| Fault::evaluation("`endpoints` is not a list of texts"))?;
    let endpoints = endpoints
        .items
        .iter()
        .map(|text| endpoint(&session.plain("endpoints", text)?))
        .collect::<Result<Vec<_>, _>>()?;
    if endpoints.is_empty() {
        return Err(Fault::evaluation("`endpoints` is empty"));
    }
    let password = session.text(text("password")?)?.into_secret();
    if password.expose().is_empty() {
        return Err(Fault::evaluation("`password` is empty"));
    }
    let ca = match fields.get_str("ca") {
        Some(value) if !value.is_none() => Some(session.plain("ca", text("ca")?)?),
        _ => None,
    };
    Ok(StoreSpec { endpoints, user: session.account("user", text("user")?)?, password, ca })
}

/// `host:port`.
fn endpoint(text: &str) -> Result<String, Fault> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(port) if port > 0 && !text.contains(['/', ' ']) => Ok(text.to_owned()),
        _ => Err(Fault::evaluation(format!("`{text}` in `endpoints` is not `host:port`"))),
    }
}
