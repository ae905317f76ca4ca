//! Limits of evaluation. Recipes are trusted code: the limits protect against accidents, not against malice.

use std::{cell::RefCell, rc::Rc, thread};

use starlark::{
    codemap::{FileSpan, FileSpanRef},
    eval::{BeforeStmtFunc, BeforeStmtFuncDyn, Evaluator},
};

use super::error::{Fault, RecipeError, RecipeErrorKind};

/// Stack of the threads that parse and evaluate. The parser needs about 400 bytes a level, an unoptimised build ten
/// times that.
const STACK: usize = 64 << 20;

/// Longest source file in bytes.
pub(super) const MAX_SOURCE: u64 = 1 << 20;

/// Longest list that `range()` may stand for: `sorted(range(2000000000))` would ask for all memory at once.
pub(super) const MAX_RANGE: i64 = 1_000_000;

/// Longest text or list that `*` may make: `[0] * 2000000000` would, too.
pub(super) const MAX_REPEATED: i64 = 1_000_000;

/// Bounds of one evaluation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Function calls and rounds of loops.
    pub(super) ticks: u64,
    /// Calls inside each other.
    pub(super) calls: usize,
    /// Bytes of values.
    pub(super) heap: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ticks: 10_000_000, calls: 200, heap: 64 << 20 }
    }
}

impl Bounds {
    /// Puts the bounds on an evaluator. The watch knows, afterwards, which statement ran last.
    pub(super) fn enforce(self, eval: &mut Evaluator<'_, '_, '_>) -> Result<Watch, RecipeError> {
        let watch = Watch(Rc::new(Watched { bounds: self, last: RefCell::new(None) }));
        // The interpreter itself looks at ticks and heap only each 1000 ticks, so that `x = x + x` forty times in a row
        // would be a terabyte; its errors do not say where. A look before each statement settles both.
        eval.before_stmt_for_dap(BeforeStmtFunc::from_dyn(Box::new(watch.clone())));
        let set = eval
            .set_max_tick_count(self.ticks)
            .and_then(|()| eval.set_max_heap_size(self.heap))
            .and_then(|()| eval.set_max_callstack_size(self.calls));
        set.map_err(|error| RecipeError::new(RecipeErrorKind::Limit, error.to_string()))?;
        Ok(watch)
    }

    pub(super) fn too_long(self) -> Fault {
        Fault::new(RecipeErrorKind::Limit, format!("ran for more than {} steps", thousands(self.ticks)))
            .hint("look for a loop that does not end; a recipe takes a few hundred steps")
    }

    pub(super) fn too_large(self) -> Fault {
        Fault::new(RecipeErrorKind::Limit, format!("made values of more than {} MiB", self.heap >> 20))
            .hint("large content belongs into a file: file_write(path, source = ...) or sync()")
    }

    pub(super) fn too_deep(self) -> Fault {
        Fault::new(RecipeErrorKind::Limit, format!("called more than {} functions inside each other", self.calls))
            .hint("look for a function that calls itself without end")
    }
}

/// Which statement an evaluation came to.
#[derive(Clone)]
pub(super) struct Watch(Rc<Watched>);

struct Watched {
    bounds: Bounds,
    last: RefCell<Option<FileSpan>>,
}

impl Watch {
    /// The statement that ran last.
    pub(super) fn last(&self) -> Option<FileSpan> {
        self.0.last.borrow().clone()
    }
}

impl<'e> BeforeStmtFuncDyn<'e> for Watch {
    fn call<'v>(
        &mut self,
        span: FileSpanRef<'_>,
        _continued: bool,
        eval: &mut Evaluator<'v, '_, 'e>,
    ) -> starlark::Result<()> {
        *self.0.last.borrow_mut() = Some(span.to_file_span());
        let bounds = self.0.bounds;
        if eval.heap().allocated_bytes() > bounds.heap {
            return Err(bounds.too_large().into());
        }
        if eval.get_total_tick_count() > bounds.ticks {
            return Err(bounds.too_long().into());
        }
        Ok(())
    }
}

/// Runs work on a thread with a stack of its own; a panic of the interpreter becomes an error.
pub(super) fn on_own_stack<R: Send>(work: impl FnOnce() -> Result<R, RecipeError> + Send) -> Result<R, RecipeError> {
    on_own_stack_beside(work, || ())
}

/// The same, and does something else on this thread meanwhile.
pub(super) fn on_own_stack_beside<R: Send>(
    work: impl FnOnce() -> Result<R, RecipeError> + Send,
    meanwhile: impl FnOnce(),
) -> Result<R, RecipeError> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().name("recipe".to_owned()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = spawned.map_err(|error| {
            RecipeError::new(RecipeErrorKind::Io, "cannot start a thread to evaluate a recipe").with_cause(error)
        })?;
        meanwhile();
        thread.join().unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
    })
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> RecipeError {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    RecipeError::new(RecipeErrorKind::Limit, format!("the Starlark interpreter gave up: {text}"))
        .with_hint("look for a text or list that grows without end")
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(10_000_000), "10,000,000");
        assert_eq!(thousands(999), "999");
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = on_own_stack::<()>(|| panic!("out of luck")).unwrap_err();
        assert_eq!(error.kind(), RecipeErrorKind::Limit);
        assert!(error.message().contains("out of luck"));
    }
}
