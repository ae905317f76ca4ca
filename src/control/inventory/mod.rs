//! The lab as one TOML file describes it: parsed strictly, valid by construction, selected from by name, glob or group.

mod model;

pub use model::{
    Access, Component, Container, Engine, FailurePolicy, Group, Host, HostKeyPolicy, Inventory, Jump, Lab, ParamValue,
    PortMapping, RecipeRef, SshAccess, VolumeMount, VolumeSource,
};
