//! A plan: the ordered ops for one component on one host.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ComponentName, HostName, Op};

/// Where a step stands in its plan, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepId(pub u32);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0 + 1)
    }
}

/// The ordered ops for one component on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which component.
    pub component: ComponentName,
    /// Which host.
    pub host: HostName,
    /// In order; `steps[i].id` is `StepId(i)`.
    pub steps: Vec<Step>,
}

/// One op of a plan and the conditions around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the plan.
    pub id: StepId,
    /// A key that stays the same from run to run, unique in the plan; pending reactions are stored under it.
    pub key: String,
    /// The state wanted.
    pub op: Op,
    /// The recipe line that asked for it.
    pub source: Source,
    /// Only when at least one of these earlier steps changed something; always when empty.
    pub only_if_changed: Vec<StepId>,
    /// Neither content nor output is shown.
    pub sensitive: bool,
    /// A failure is reported but does not stop the plan.
    pub ignore_errors: bool,
}

impl Step {
    /// What people read: `file_write /etc/motd`.
    pub fn title(&self) -> String {
        let subject =
            if self.sensitive && matches!(self.op, Op::Run(_)) { "***".to_owned() } else { self.op.subject() };
        format!("{} {subject}", self.op.name())
    }
}

/// A place in a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The file as the operator would name it: `recipes/etcd/recipe.star`, `//lib/ovs.star`.
    pub file: String,
    /// Line, from 1; 0 when there is none.
    pub line: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}
