//! Documentation for people, made from what the code knows.

use std::fmt::Write as _;

use starlark::docs::{DocFunction, DocItem, DocMember};

use super::{ParamSpec, Recipe, functions};

/// The functions that recipes may call, as Markdown, in alphabetical order: signature, then what it does.
pub fn functions_reference() -> String {
    let documentation = functions::own_globals().documentation();
    let mut found: Vec<(String, DocFunction)> = Vec::new();
    for (name, item) in documentation.members {
        match item {
            DocItem::Member(DocMember::Function(function)) => found.push((name, function)),
            DocItem::Module(module) => {
                found.extend(module.members.into_iter().filter_map(|(member, item)| match item {
                    DocItem::Member(DocMember::Function(function)) => Some((format!("{name}.{member}"), function)),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut text = String::new();
    for (name, function) in &found {
        let _ = writeln!(text, "### {name}\n\n```python\n{}\n```\n", signature(name, function));
        if let Some(docs) = &function.docs {
            let details = docs.details.as_ref().map(|details| format!("\n\n{details}")).unwrap_or_default();
            let _ = writeln!(text, "{}{details}\n", docs.summary);
        }
    }
    text.trim_end().to_owned() + "\n"
}

fn signature(name: &str, function: &DocFunction) -> String {
    let params = &function.params;
    let one = |param: &starlark::docs::DocParam| {
        let default = param.default_value.as_ref().map(|default| format!(" = {default}")).unwrap_or_default();
        format!("{}: {}{default}", param.name, param.typ)
    };
    let mut shown: Vec<String> = params.pos_only.iter().chain(&params.pos_or_named).map(one).collect();
    if let Some(args) = &params.args {
        shown.push(format!("*{}", one(args)));
    } else if !params.named_only.is_empty() {
        shown.push("*".to_owned());
    }
    shown.extend(params.named_only.iter().map(one));
    shown.extend(params.kwargs.iter().map(|kwargs| format!("**{}", one(kwargs))));
    let joined = shown.join(", ");
    let returns = &function.ret.typ;
    if name.len() + joined.len() < 80 {
        format!("{name}({joined}) -> {returns}")
    } else {
        format!("{name}(\n    {},\n) -> {returns}", shown.join(",\n    "))
    }
}

/// A recipe's text and parameters, as Markdown.
pub(super) fn recipe(recipe: &Recipe) -> String {
    let mut text = format!("# {}\n", recipe.name());
    if !recipe.doc().is_empty() {
        let _ = write!(text, "\n{}\n", recipe.doc());
    }
    if recipe.params().is_empty() {
        text.push_str("\nIt takes no parameters.\n");
        return text;
    }
    text.push_str("\n| parameter | type | default | |\n| --- | --- | --- | --- |\n");
    for param in recipe.params() {
        let _ = writeln!(text, "| {} | {} | {} | {} |", param.name, param.kind.name(), default(param), remark(param));
    }
    text
}

fn default(param: &ParamSpec) -> String {
    match &param.default {
        None => "required".to_owned(),
        Some(serde_json::Value::Null) => "none".to_owned(),
        Some(value) => format!("`{}`", cell(&value.to_string())),
    }
}

fn remark(param: &ParamSpec) -> String {
    if param.choices.is_empty() {
        return cell(&param.doc);
    }
    let choices: Vec<String> = param.choices.iter().map(|choice| format!("`{}`", cell(&choice.to_string()))).collect();
    format!("{} One of {}.", cell(&param.doc), choices.join(", ")).trim().to_owned()
}

/// A text that does not break a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
