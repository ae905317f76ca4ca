//! The near side, in the order data flows: inventory, recipe, link, lab, config, drive, report, cli.

pub mod cli;
pub mod config;
pub mod drive;
pub mod event;
pub mod inventory;
pub mod lab;
pub mod link;
pub mod recipe;
pub mod report;
