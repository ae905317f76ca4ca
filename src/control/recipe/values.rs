//! Values of ours that recipes pass around: handles of steps, files of launches, declared parameters.
//!
//! To Starlark they are structs: a type of its own would need an `unsafe` implementation.

use std::convert::Infallible;

use starlark::{
    typing::Ty,
    values::{
        AllocValue, Heap, UnpackValue, Value,
        list::{AllocList, UnpackList},
        none::NoneOr,
        structs::{AllocStruct, StructRef},
        type_repr::StarlarkTypeRepr,
    },
};

/// What an op returns: names its steps, so that others can react to their change.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    /// Places in the plan, from 0.
    pub(super) steps: Vec<u32>,
    /// What people call it.
    pub(super) title: String,
}

/// A file that `ovs-launch` renders from a key in etcd.
#[derive(Debug, Clone)]
pub(super) struct FileRef {
    /// Its name below `/run/ovs-cuisine/<service>/`.
    pub(super) name: String,
    /// Its key, relative to the lab's prefix.
    pub(super) key: String,
    /// Permission bits as text.
    pub(super) mode: Option<String>,
    /// As for `launch()`.
    pub(super) on_change: Option<String>,
}

/// What `param()` returns. Values are JSON, so that they can be kept beyond their heap.
#[derive(Debug, Clone)]
pub(super) struct ParamDecl {
    /// The name of its type.
    pub(super) kind: String,
    /// JSON of the default; none when required.
    pub(super) default: Option<String>,
    /// One line for people.
    pub(super) doc: String,
    /// JSON of each choice.
    pub(super) choices: Vec<String>,
    /// Paths that the directory must have.
    pub(super) contains: Vec<String>,
    /// When its component's turn comes in a push of several.
    pub(super) push_order: i32,
    /// Where it was declared.
    pub(super) file: String,
    /// Likewise, from 1.
    pub(super) line: u32,
}

impl<'v> AllocValue<'v> for Handle {
    fn alloc_value(self, heap: Heap<'v>) -> Value<'v> {
        heap.alloc(AllocStruct([("step", heap.alloc(self.title)), ("places", heap.alloc(AllocList(self.steps)))]))
    }
}

impl<'v> AllocValue<'v> for FileRef {
    fn alloc_value(self, heap: Heap<'v>) -> Value<'v> {
        heap.alloc(AllocStruct([
            ("file", heap.alloc(self.name)),
            ("key", heap.alloc(self.key)),
            ("mode", heap.alloc(NoneOr::from_option(self.mode))),
            ("on_change", heap.alloc(NoneOr::from_option(self.on_change))),
        ]))
    }
}

impl<'v> AllocValue<'v> for ParamDecl {
    fn alloc_value(self, heap: Heap<'v>) -> Value<'v> {
        heap.alloc(AllocStruct([
            ("param", heap.alloc(self.kind)),
            ("default", heap.alloc(NoneOr::from_option(self.default))),
            ("doc", heap.alloc(self.doc)),
            ("choices", heap.alloc(AllocList(self.choices))),
            ("contains", heap.alloc(AllocList(self.contains))),
            ("push_order", heap.alloc(self.push_order)),
            ("declared_in", heap.alloc(self.file)),
            ("declared_at", heap.alloc(self.line)),
        ]))
    }
}

/// The fields of a struct, by name.
struct Fields<'v>(StructRef<'v>);

impl<'v> Fields<'v> {
    fn get<T: UnpackValue<'v>>(&self, name: &str) -> Option<T> {
        let (_, value) = self.0.iter().find(|(field, _)| field.as_str() == name)?;
        T::unpack_value(value).ok().flatten()
    }

    fn handle(&self) -> Option<Handle> {
        Some(Handle { title: self.get("step")?, steps: self.get::<UnpackList<u32>>("places")?.items })
    }

    fn file(&self) -> Option<FileRef> {
        Some(FileRef {
            name: self.get("file")?,
            key: self.get("key")?,
            mode: self.get::<NoneOr<String>>("mode")?.into_option(),
            on_change: self.get::<NoneOr<String>>("on_change")?.into_option(),
        })
    }

    fn param(&self) -> Option<ParamDecl> {
        Some(ParamDecl {
            kind: self.get("param")?,
            default: self.get::<NoneOr<String>>("default")?.into_option(),
            doc: self.get("doc")?,
            choices: self.get::<UnpackList<String>>("choices")?.items,
            contains: self.get::<UnpackList<String>>("contains")?.items,
            push_order: self.get("push_order")?,
            file: self.get("declared_in")?,
            line: self.get("declared_at")?,
        })
    }
}

macro_rules! is_struct {
    ($name:ident, $unpack:ident) => {
        impl StarlarkTypeRepr for $name {
            type Canonical = <StructRef<'static> as StarlarkTypeRepr>::Canonical;

            fn starlark_type_repr() -> Ty {
                StructRef::starlark_type_repr()
            }
        }

        impl<'v> UnpackValue<'v> for $name {
            type Error = Infallible;

            fn unpack_value_impl(value: Value<'v>) -> Result<Option<Self>, Infallible> {
                Ok(StructRef::from_value(value).and_then(|fields| Fields(fields).$unpack()))
            }
        }
    };
}

is_struct!(Handle, handle);
is_struct!(FileRef, file);
is_struct!(ParamDecl, param);
