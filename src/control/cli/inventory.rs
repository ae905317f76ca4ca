//! `inventory check` and `inventory show`.

use super::{
    args,
    failure::{Exit, Failure},
    output,
    run::Lab,
};
use crate::control::report::plural;

pub(super) fn inventory(args: args::Inventory) -> Result<Exit, Failure> {
    match args {
        args::Inventory::Check { inventory } => {
            let lab = Lab::load(&inventory)?;
            for component in lab.inventory.components.values() {
                lab.library.load(&component.recipe)?.bind(component, lab.inventory.directory())?;
            }
            output::result(&format!(
                "{} is good: {}, {}, {}.\n",
                inventory.display(),
                plural(lab.inventory.hosts.len() as u64, "host", "hosts"),
                plural(lab.inventory.groups.len() as u64, "group", "groups"),
                plural(lab.inventory.components.len() as u64, "component", "components"),
            ))?;
        }
        args::Inventory::Show { inventory, json } => {
            let lab = Lab::load(&inventory)?;
            output::result(&if json {
                format!("{}\n", lab.inventory.to_json())
            } else {
                format!("{}\n", lab.inventory.show().trim_end())
            })?;
        }
    }
    Ok(Exit::Done)
}
