//! Tree sync: the near side's scan and answers and the far side's comparison and changes, connected in one process.

mod ahead;
mod any_tree;
mod apply;
mod campaign;
mod child;
mod churn;
mod delta;
mod extra;
mod far;
mod follow;
mod interrupted;
mod matcher;
mod mischief;
mod refusals;
mod release;
mod resume;
mod scan;
mod script;
mod world;
