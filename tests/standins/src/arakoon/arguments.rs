//! The arguments of `arakoon`. Some have one dash, some two; both forms of each are taken.

/// What is asked of the program.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Node { node: String, autofix: bool, daemonize: bool, catchup_only: bool },
    WhoMaster,
    Nop,
    ExpectProgressPossible,
    Statistics,
    NodeState(String),
    Ping { cluster: String, ip: String, port: u16 },
    Set { key: String, value: String },
    SetRaw(String),
    Get(String),
    Delete(String),
    Prefix(String),
    Version,
}

/// The action and the configuration it is about.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) action: Action,
    pub(crate) config: Option<String>,
}

#[derive(Default)]
struct NodeFlags {
    node: Option<String>,
    autofix: bool,
    daemonize: bool,
    catchup_only: bool,
}

impl Arguments {
    pub(crate) fn parse(words: Vec<String>) -> Result<Self, String> {
        let mut words = words.into_iter();
        let mut config = None;
        let mut action = None;
        let mut flags = NodeFlags::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("option {word} needs an argument"));
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let found = match flag.ok_or_else(|| format!("don't know what to do with {word}"))? {
                "config" => {
                    config = Some(value()?);
                    None
                }
                "node" => {
                    flags.node = Some(value()?);
                    None
                }
                // A marker for people who read process lists.
                "start" => None,
                "autofix" => set(&mut flags.autofix),
                "daemonize" => set(&mut flags.daemonize),
                "catchup-only" => set(&mut flags.catchup_only),
                "who-master" => Some(Action::WhoMaster),
                "nop" => Some(Action::Nop),
                "expect-progress-possible" => Some(Action::ExpectProgressPossible),
                "statistics" => Some(Action::Statistics),
                "node-state" => Some(Action::NodeState(value()?)),
                "ping" => Some(Action::Ping { cluster: value()?, ip: value()?, port: port(&value()?)? }),
                "set" => Some(Action::Set { key: value()?, value: value()? }),
                "set-raw" => Some(Action::SetRaw(value()?)),
                "get" => Some(Action::Get(value()?)),
                "delete" => Some(Action::Delete(value()?)),
                "prefix" => Some(Action::Prefix(value()?)),
                "version" => Some(Action::Version),
                _ => return Err(format!("unknown option {word}")),
            };
            action = found.or(action);
        }
        Ok(Self { action: action.map_or_else(|| flags.action(), Ok)?, config })
    }
}

fn set(flag: &mut bool) -> Option<Action> {
    *flag = true;
    None
}

impl NodeFlags {
    fn action(self) -> Result<Action, String> {
        let node = self.node.ok_or("--node is missing")?;
        let Self { autofix, daemonize, catchup_only, .. } = self;
        Ok(Action::Node { node, autofix, daemonize, catchup_only })
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text} is not a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_command_line_is_read() {
        let line = "--node n1 -config etcd://127.0.0.1:2379/ovs/arakoon/ovsdb/config -autofix -start";
        let parsed = Arguments::parse(line.split(' ').map(str::to_owned).collect()).unwrap();
        assert_eq!(
            parsed.action,
            Action::Node { node: "n1".into(), autofix: true, daemonize: false, catchup_only: false }
        );
        assert!(parsed.config.unwrap().starts_with("etcd://"));
        for bad in ["-start", "--node", "--who-master --loud", "node", "--ping a b c"] {
            assert!(Arguments::parse(bad.split(' ').map(str::to_owned).collect()).is_err(), "{bad}");
        }
    }
}
