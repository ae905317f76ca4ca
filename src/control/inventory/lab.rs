//! `[lab]`: its name, its directories, its prefix in etcd and its engine.

use std::path::Path;

use super::{
    address,
    mask::Masked,
    model::{Engine, Lab},
    path::resolve,
    table::{Table, Text},
};
use crate::plan::LabName;

const KEYS: [&str; 7] = ["name", "recipes", "keys", "prefix", "engine", "subnet", "vars"];

/// The lab's own keys in etcd live here; configuration may not.
const RESERVED: &str = "/ovs-cuisine/";

/// Reads `[lab]`. None when it has no usable name, which is reported.
pub(super) fn read(table: &Table<'_>, base: &Path) -> Option<Lab> {
    table.only(&KEYS);
    let recipes = match table.item("recipes") {
        Some(item) => item.texts().iter().map(|text| resolve(text.text, base)).collect(),
        None => vec![resolve("recipes", base)],
    };
    let prefix = table.text("prefix").map_or_else(|| Some("/ovs/".to_owned()), |text| prefix(table, &text));
    let engine = table.text("engine").map_or(Some(Engine::Default), |text| engine(table, &text));
    let subnet = match table.text("subnet") {
        Some(text) => address::subnet(table, &text).map(Some),
        None => Some(None),
    };
    let vars = Masked(table.json("vars"));
    let keys = table.text("keys").map(|text| resolve(text.text, base));
    let name = name(table)?;
    let keys = keys.unwrap_or_else(|| resolve("keys", base).join(name.as_str()));
    Some(Lab { name, recipes, keys, prefix: prefix?, engine: engine?, subnet: subnet?, vars })
}

fn name(table: &Table<'_>) -> Option<LabName> {
    if table.item("name").is_none() {
        let help = Some("give the lab a name: `name = \"demo\"` below `[lab]`".to_owned());
        table.problems.add_with(table.span.clone(), "the lab has no name", help);
        return None;
    }
    let text = table.text("name")?;
    text.text.parse().map_err(|fault| table.problems.add(text.span, format!("{fault}"))).ok()
}

/// A prefix begins and ends with `/`; the last one may be left out.
fn prefix(table: &Table<'_>, text: &Text<'_>) -> Option<String> {
    let prefix = format!("{}/", text.text.trim_end_matches('/'));
    let plain = prefix.chars().all(|c| c.is_ascii_graphic());
    let why = if !prefix.starts_with('/') || prefix == "/" || prefix.contains("//") || !plain {
        "is not a prefix of keys"
    } else if prefix.starts_with(RESERVED) {
        "is kept for our own records"
    } else {
        return Some(prefix);
    };
    let help = Some("a prefix is written `/ovs/`: below the root, without empty parts and blanks".to_owned());
    table.problems.add_with(text.span.clone(), format!("`{}` {why}", text.text), help);
    None
}

fn engine(table: &Table<'_>, text: &Text<'_>) -> Option<Engine> {
    if text.text == "default" {
        return Some(Engine::Default);
    }
    let rest = text.text.strip_prefix("unix:///").or_else(|| text.text.strip_prefix("tcp://"));
    if rest.is_some_and(|rest| !rest.is_empty()) {
        return Some(Engine::Address(text.text.to_owned()));
    }
    let help = "an engine is written `unix:///path/of/docker.sock` or `tcp://host:2375`; `default` follows DOCKER_HOST";
    table.problems.add_with(text.span.clone(), format!("`{}` is not an engine", text.text), Some(help.to_owned()));
    None
}
