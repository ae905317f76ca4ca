//! The lab as one TOML file describes it: parsed strictly, valid by construction, selected from by name, glob or group.

mod address;
mod component;
mod container;
mod graph;
mod group;
mod host;
mod lab;
mod mask;
mod model;
mod mount;
mod nearest;
mod path;
mod port;
mod problem;
mod range;
mod read;
mod select;
mod show;
mod size;
mod ssh;
mod subnet;
mod table;

pub use mask::{Masked, ParamValue};
pub use model::{
    Access, Component, Container, Engine, FailurePolicy, Group, Host, HostKeyPolicy, Init, Inventory, Jump, Lab,
    PortMapping, Propagation, RecipeRef, SshAccess, Vars, VolumeMount, VolumeSource,
};
pub use problem::{InventoryError, Problem};
pub use select::SelectError;
pub use subnet::{Subnet, SubnetError};
