//! Templates, in the Jinja manner, from the recipe's folder.

use std::sync::Arc;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value as Jinja, syntax::SyntaxConfig};
use starlark::values::{Value, dict::DictRef};

use super::{
    error::{Fault, RecipeErrorKind},
    session::Session,
};

/// Instructions that one template may take; a loop over every port takes half a million.
const FUEL: u64 = 10_000_000;

/// Renders a template with these variables. Secrets stay covered.
pub(super) fn render(session: &Session, name: &str, vars: Option<&DictRef<'_>>) -> Result<String, Fault> {
    let name = session.plain("template", name)?;
    let vars: Jinja = serde_json::from_value(variables(vars)?.into())
        .map_err(|error| Fault::new(RecipeErrorKind::Template, error.to_string()))?;
    let texts = session.texts("template")?;
    // Found here first, so that a missing file is told as such and not as a template that cannot be rendered.
    texts.read(&session.roots.resolve(&name, &session.folder)?)?;

    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    let (roots, folder) = (Arc::clone(&session.roots), session.folder.clone());
    environment.set_loader(move |part| {
        let text = roots.resolve(part, &folder).and_then(|file| texts.read(&file));
        text.map(|text| Some(text.to_string())).map_err(|fault| wrong(fault.message))
    });
    let veil = Arc::clone(&session.veil);
    environment.add_filter("tojson", move |value: Jinja| {
        let text = serde_json::to_string(&value).map_err(|error| wrong(error.to_string()))?;
        veil.quote_within(&text, json_escaped).map_err(|fault| wrong(fault.message))
    });
    let rendered = environment.get_template(&name).and_then(|template| template.render(vars));
    rendered.map_err(|error| told(&name, &error))
}

fn syntax() -> Result<SyntaxConfig, Fault> {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    syntax.map_err(|error| Fault::new(RecipeErrorKind::Template, error.to_string()))
}

/// A text as it stands inside a JSON string, without the quotes around it.
pub(super) fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn variables(vars: Option<&DictRef<'_>>) -> Result<serde_json::Map<String, serde_json::Value>, Fault> {
    let mut variables = serde_json::Map::new();
    for (name, value) in vars.into_iter().flat_map(|vars| vars.iter()) {
        let Some(name) = name.unpack_str() else {
            return Err(Fault::evaluation("the names in `vars` are texts"));
        };
        variables.insert(name.to_owned(), json(name, value)?);
    }
    Ok(variables)
}

fn json(name: &str, value: Value<'_>) -> Result<serde_json::Value, Fault> {
    value.to_json_value().map_err(|_| {
        let kind = value.get_type();
        Fault::evaluation(format!("`{name}` in `vars` holds a {kind}, which a template cannot use"))
    })
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// A template's error with its own file and line; the interpreter adds the recipe's.
fn told(name: &str, error: &Error) -> Fault {
    let file = error.name().unwrap_or(name);
    let place = error.line().map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
    let (kind, detail) = (error.kind(), error.detail());
    let named = error.template_source().zip(error.range()).and_then(|(source, range)| source.get(range));
    let what = match (kind, detail, named) {
        (ErrorKind::OutOfFuel, ..) => "it does not come to an end".to_owned(),
        (ErrorKind::UndefinedError, None, Some(expression)) => format!("undefined value `{}`", expression.trim()),
        (_, Some(detail), _) => format!("{kind}: {detail}"),
        (_, None, _) => kind.to_string(),
    };
    let fault = Fault::new(RecipeErrorKind::Template, format!("template `{place}`: {what}"));
    match kind {
        ErrorKind::UndefinedError => fault.hint("pass it in `vars`, or write `{{ name | default(\"...\") }}`"),
        _ => fault,
    }
}
