//! The lab as one TOML file describes it: parsed strictly, valid by construction, selected from by name, glob or group.

mod mask;
mod model;

pub use mask::{Masked, ParamValue};
pub use model::{
    Access, Component, Container, Engine, FailurePolicy, Group, Host, HostKeyPolicy, Inventory, Jump, Lab, PortMapping,
    RecipeRef, SshAccess, Vars, VolumeMount, VolumeSource,
};
