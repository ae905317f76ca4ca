//! Parameters.

use starlark::{
    collections::SmallMap,
    environment::GlobalsBuilder,
    eval::Evaluator,
    starlark_module,
    values::{Value, list::UnpackList, none::NoneType},
};

use super::session;
use crate::control::recipe::{
    error::Fault,
    params,
    session::{Phase, caller},
    values::ParamDecl,
};

#[starlark_module]
pub(super) fn functions(builder: &mut GlobalsBuilder) {
    /// Declares the recipe's parameters, once, at the top level of `recipe.star`. Each is a `param()`.
    fn params<'v>(
        #[starlark(kwargs)] declared: SmallMap<&'v str, ParamDecl>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let session = session(eval)?;
        if session.phase != Phase::Recipe {
            return Err(Fault::evaluation("`params` may only be called at the top level of a recipe's own file").into());
        }
        let specs = declared.iter().map(|(name, declared)| params::spec(name, declared)).collect::<Result<_, _>>()?;
        if session.recorded().params.replace(specs).is_some() {
            return Err(Fault::evaluation("`params` may only be called once").into());
        }
        Ok(NoneType)
    }

    /// A parameter for `params()`. `type` is one of `str`, `int`, `bool`, `float`, `path`, `list`, `dict`, `secret`
    /// and `port`. A parameter without `default` must be given; with `default = None` it is optional and then `None`.
    /// `choices` lists the only values allowed. `contains` lists what the directory that a `path` names must have, such as
    /// `usr/bin/arakoon`, or `usr/lib/alba/` for a directory: what is missing is told before anything is touched.
    /// `push_order` of a `path` says when the component's turn comes in a push of several, such as `push --build`: lower ones
    /// first, equal ones in the order of `needs`.
    fn param<'v>(
        r#type: &str,
        #[starlark(require = named)] default: Option<Value<'v>>,
        #[starlark(require = named, default = "")] doc: &str,
        #[starlark(require = named, default = UnpackList::default())] choices: UnpackList<Value<'v>>,
        #[starlark(require = named, default = UnpackList::default())] contains: UnpackList<String>,
        #[starlark(require = named, default = 0)] push_order: i32,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<ParamDecl> {
        let session = session(eval)?;
        if !matches!(session.phase, Phase::Recipe | Phase::Library) {
            return Err(Fault::evaluation("`param` may only be called at the top level of a file").into());
        }
        let json = |value: Value<'v>| {
            value.to_json().map_err(|_| {
                Fault::evaluation(format!("`{}` cannot be a parameter's value", value.to_string_for_type_error()))
            })
        };
        let source = caller(eval);
        let declared = ParamDecl {
            kind: r#type.to_owned(),
            default: default.map(json).transpose()?,
            doc: doc.to_owned(),
            choices: choices.items.into_iter().map(json).collect::<Result<_, _>>()?,
            contains: contains.items,
            push_order,
            file: source.file,
            line: source.line,
        };
        params::check(&declared)?;
        Ok(declared)
    }
}
