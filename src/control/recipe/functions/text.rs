//! Texts: templates, ini and JSON, quoting; and the parts of the language that recipes have in a bounded form.

use starlark::{
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{Heap, Value, dict::DictRef, list::ListRef, none::NoneOr, range::Range},
};

use super::session;
use crate::control::recipe::{
    RecipeErrorKind,
    bounds::{MAX_RANGE, MAX_REPEATED},
    error::Fault,
    session::Session,
    template,
};

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// A rendered template of the recipe's folder (or `//lib/x.j2`), in the Jinja manner: `{{ name }}`, `{% if %}`,
    /// `{% for %}`. A variable that `vars` does not have is an error.
    fn template<'v>(
        name: &str,
        #[starlark(default = NoneOr::None)] vars: NoneOr<DictRef<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        Ok(template::render(session(eval)?, name, vars.into_option().as_ref())?)
    }

    /// An ini text: `{"section": {"name": value}}`, in order; plain values at the top stand before the first section.
    /// A list becomes `a, b`, a truth value `true` or `false`.
    fn ini<'v>(content: DictRef<'v>, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<String> {
        Ok(ini_text(session(eval)?, &content)?)
    }

    /// The text as one word of a shell command, quoted when necessary.
    fn shell_quote<'v>(text: &str, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<String> {
        if text.contains('\0') {
            return Err(Fault::evaluation("a zero byte cannot stand in a command").into());
        }
        Ok(session(eval)?.veil.transform(text, quoted)?)
    }

    /// The lines of a text without everything up to the margin; lines without a margin are left out.
    fn text_strip_margin(text: &str, #[starlark(default = "|")] margin: &str) -> starlark::Result<String> {
        if margin.is_empty() {
            return Err(Fault::evaluation("`margin` is empty").into());
        }
        let lines = text.lines().filter_map(|line| {
            let (indent, rest) = line.split_once(margin)?;
            indent.trim().is_empty().then_some(rest)
        });
        let mut stripped = lines.collect::<Vec<_>>().join("\n");
        if text.ends_with('\n') && !stripped.is_empty() {
            stripped.push('\n');
        }
        Ok(stripped)
    }
}

#[starlark_module]
pub(super) fn json(builder: &mut GlobalsBuilder) {
    /// The value as JSON: on one line, or with `indent` blanks for each level.
    fn encode<'v>(
        value: Value<'v>,
        #[starlark(require = named, default = NoneOr::None)] indent: NoneOr<u32>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<String> {
        let session = session(eval)?;
        let json = value.to_json_value().map_err(|error| {
            Fault::evaluation(format!("`{}` cannot become JSON: {error}", value.to_string_for_type_error()))
        })?;
        let text = match indent.into_option() {
            None => json.to_string(),
            Some(indent) => pretty(&json, usize::try_from(indent.min(16)).unwrap_or(2)),
        };
        // Inside a JSON string a secret has to be escaped like everything around it.
        Ok(session.veil.quote_within(&text, template::json_escaped)?)
    }

    /// The value that a JSON text stands for.
    fn decode<'v>(text: &str, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|error| Fault::evaluation(format!("not JSON: {error}")))?;
        Ok(heap.alloc(json))
    }
}

#[starlark_module]
pub(super) fn replaced(builder: &mut GlobalsBuilder) {
    /// The numbers from `a` to before `b`, or from 0 to before `a`; at most a million of them.
    #[starlark(as_type = Range)]
    fn range(
        #[starlark(require = pos)] a: i32,
        #[starlark(require = pos)] b: Option<i32>,
        #[starlark(require = pos, default = 1)] step: i32,
    ) -> starlark::Result<Range> {
        let (start, stop) = b.map_or((0, a), |b| (a, b));
        let Some(step) = std::num::NonZeroI32::new(step) else {
            return Err(Fault::evaluation("the step of range() is 0").into());
        };
        let length = (i64::from(stop) - i64::from(start)) / i64::from(step.get());
        if length > MAX_RANGE {
            return Err(Fault::new(
                RecipeErrorKind::Limit,
                format!("asked range() for {length} numbers; {MAX_RANGE} is the most"),
            )
            .into());
        }
        Ok(Range::new(start, stop, step))
    }

    /// What `a * b` becomes when a file is compiled: a text or list is not repeated beyond all memory.
    fn repeated_times<'v>(a: Value<'v>, b: Value<'v>, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let long = |text: Value<'v>| text.length().ok().map(i64::from);
        let repeats =
            a.unpack_i32().map(|times| (times, long(b))).or_else(|| b.unpack_i32().map(|times| (times, long(a))));
        if let Some((times, Some(length))) = repeats
            && i64::from(times).saturating_mul(length) > MAX_REPEATED
        {
            let message = format!("asked for {length} values or letters {times} times; {MAX_REPEATED} is the most");
            return Err(Fault::new(RecipeErrorKind::Limit, message).into());
        }
        a.mul(b, heap)
    }
}

fn pretty(json: &serde_json::Value, indent: usize) -> String {
    let blanks = " ".repeat(indent);
    let formatter = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match serde::Serialize::serialize(json, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => json.to_string(),
    }
}

/// POSIX shell quoting: within single quotes everything stands for itself.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(&b));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn ini_text(session: &Session, content: &DictRef<'_>) -> Result<String, Fault> {
    let mut head = String::new();
    let mut sections = String::new();
    for (name, value) in content.iter() {
        let name = ini_name(name)?;
        let Some(section) = DictRef::from_value(value) else {
            head.push_str(&ini_line(session, &name, value)?);
            continue;
        };
        if !head.is_empty() || !sections.is_empty() {
            sections.push('\n');
        }
        sections.extend(["[", &name, "]\n"]);
        for (key, value) in section.iter() {
            sections.push_str(&ini_line(session, &ini_name(key)?, value)?);
        }
    }
    Ok(head + &sections)
}

fn ini_name(name: Value<'_>) -> Result<String, Fault> {
    let text = name.unpack_str().map_or_else(|| name.to_str(), str::to_owned);
    if text.trim() != text || text.is_empty() || text.contains(['\n', '\r', '[', ']', '=']) {
        return Err(Fault::evaluation(format!("`{text}` cannot be a name in an ini text")));
    }
    Ok(text)
}

fn ini_line(session: &Session, name: &str, value: Value<'_>) -> Result<String, Fault> {
    let text = match ListRef::from_value(value) {
        Some(list) => list.iter().map(ini_value).collect::<Result<Vec<_>, _>>()?.join(", "),
        None => ini_value(value)?,
    };
    let shown = session.text(&text)?.into_secret();
    if shown.expose().contains(['\n', '\r']) {
        return Err(Fault::evaluation(format!("the value of `{name}` has more than one line")));
    }
    Ok(if text.is_empty() { format!("{name} =\n") } else { format!("{name} = {text}\n") })
}

fn ini_value(value: Value<'_>) -> Result<String, Fault> {
    if let Some(text) = value.unpack_str() {
        return Ok(text.to_owned());
    }
    match (value.unpack_bool(), value.get_type()) {
        (Some(flag), _) => Ok(flag.to_string()),
        (None, "int" | "float") => Ok(value.to_str()),
        (None, other) => Err(Fault::evaluation(format!("a {other} cannot be a value in an ini text"))),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn shell_words_are_quoted_when_necessary() {
        for (text, word) in [
            ("", "''"),
            ("/a-b_c.d", "/a-b_c.d"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("$x", "'$x'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quoted(text), word);
        }
    }
}
