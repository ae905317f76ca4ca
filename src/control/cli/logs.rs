//! `logs`: what services on hosts wrote, wherever their service manager keeps it.

use super::{
    ad_hoc, args,
    failure::{Exit, Failure},
};

/// Finds and shows the logs on a host.
const SCRIPT: &str = include_str!("logs.sh");
/// How long logs are followed, in seconds: a year is for ever.
const FOR_EVER: u32 = 365 * 86_400;

pub(super) async fn logs(args: args::Logs, verbose: u8) -> Result<Exit, Failure> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@:*?[]".contains(c));
    if let Some(wrong) = args.services.iter().find(|service| !plain(service)) {
        return Err(Failure::bad_input(format!("`{wrong}` is no service")).hint("name services, or use `*` and `?`"));
    }
    let (services, lines, follow) = (args.services.join(" "), args.lines, u8::from(args.follow));
    let command = format!("SERVICES='{services}' LINES_SHOWN={lines} FOLLOW={follow}\n{SCRIPT}");
    let timeout = if args.follow { FOR_EVER } else { 60 };
    let exec = args::Exec {
        inventory: args.inventory,
        on: args.on,
        user: None,
        timeout,
        command: vec![command],
        options: args.options,
    };
    ad_hoc::exec(exec, verbose).await
}
