//! Documentation for people, made from what the code knows.

use std::fmt::Write as _;

use starlark::{
    docs::{DocFunction, DocItem, DocMember, DocParam},
    typing::Ty,
};

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

/// Arguments that every op has; explained once.
const COMMON: [&str; 3] = ["only_if_changed", "ignore_errors", "sensitive"];

fn signature(name: &str, function: &DocFunction) -> String {
    let params = &function.params;
    let one = |param: &DocParam| {
        let default = param.default_value.as_ref().map(|shown| format!(" = {}", default_of(name, param, shown)));
        format!("{}: {}{}", param.name, type_of(name, &param.name, &param.typ), default.unwrap_or_default())
    };
    let is_common = |param: &&DocParam| COMMON.contains(&param.name.as_str());
    let mut shown: Vec<String> = params.pos_only.iter().chain(&params.pos_or_named).map(one).collect();
    let named: Vec<&DocParam> = params.named_only.iter().filter(|param| !is_common(param)).collect();
    if let Some(args) = &params.args {
        shown.push(format!("*{}", one(args)));
    } else if !named.is_empty() {
        shown.push("*".to_owned());
    }
    shown.extend(named.into_iter().map(one));
    if params.named_only.iter().any(|param| is_common(&param)) {
        shown.push("**common".to_owned());
    }
    shown.extend(params.kwargs.iter().map(|kwargs| format!("**{}", one(kwargs))));
    let joined = shown.join(", ");
    let returns = type_of(name, "", &function.ret.typ);
    if name.len() + joined.len() < 80 {
        format!("{name}({joined}) -> {returns}")
    } else {
        format!("{name}(\n    {},\n) -> {returns}", shown.join(",\n    "))
    }
}

/// A type as people read it: the interpreter knows our own values only as structs.
fn type_of(function: &str, param: &str, typ: &Ty) -> String {
    let ours = match (function, param) {
        ("file", _) | ("launch", "argv" | "files") => "file",
        ("param" | "params", _) => "param",
        _ => "handle",
    };
    typ.to_string().replace("struct(..)", ours).replace("typing.Any", "any")
}

/// A default as people read it: the interpreter shows only simple ones.
fn default_of(function: &str, param: &DocParam, shown: &str) -> String {
    let default = match (function, param.name.as_str()) {
        _ if shown != "..." => shown,
        ("param", "default") => "<required>",
        ("run", "timeout") => "300",
        ("query" | "wait_port", "timeout") => "30",
        ("run", "success") => "[0]",
        (_, "environment") => "{}",
        (_, "delete") => "False",
        (_, "restart_on" | "ignore" | "groups" | "files" | "choices" | "ports") => "[]",
        _ => shown,
    };
    default.to_owned()
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
