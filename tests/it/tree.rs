//! Tree sync: the near side's scan and answers and the far side's comparison and changes, connected in one process.

mod ahead;
mod any_tree;
mod apply;
mod campaign;
mod child;
mod delta;
mod extra;
mod follow;
mod refusals;
mod release;
mod resume;
mod scan;
mod world;
