//! What may be typed.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args as ClapArgs, CommandFactory, Parser, Subcommand};

/// Provisions machines over SSH: recipes say what a machine should be, and this makes it so.
#[derive(Debug, Parser)]
#[command(name = "ovs-cuisine", version, about, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Exit status: 0 done; 10 `plan --exit-code` found changes; 20 bad input; 30 a host or engine could not be \
reached or trusted; 40 a step, probe or transaction failed; 50 stopped by policy; 130 interrupted.")]
pub(super) struct Args {
    /// Says more: unchanged steps, facts, timings. Twice: what we do internally.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,

    /// Also logs what libraries trace. It may hold secrets.
    #[arg(long, global = true, hide = true)]
    pub(super) trace_all: bool,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Brings a lab to the state that its inventory and recipes describe.
    ///
    /// Starts containers that are missing, writes each component's configuration to etcd, applies the recipes over
    /// SSH and runs their health probes. A second deploy changes nothing.
    Deploy(Deploy),
    /// Shows what `deploy` would change, and changes nothing.
    Plan(Plan),
    /// Brings a component's trees to its running hosts, and restarts exactly what reacts to them.
    ///
    /// Only the `sync` steps of the component's recipe are run, and the steps that react to a change of them
    /// (`restart_on`, `only_if_changed`). With `--watch` every later change follows by itself.
    Push(Push),
    /// Looks at trees of this machine as `sync` sees them.
    #[command(subcommand)]
    Sync(Sync),
    /// Runs one recipe, or one expression, on some hosts.
    Run(Run),
    /// Runs one shell command on some hosts, with live output.
    Exec(Exec),
    /// Copies a file or directory to hosts, or from them.
    ///
    /// One of SOURCE and DEST is on hosts, written HOSTS:PATH; the other one is here. A path there is absolute, or
    /// relative to the home directory of the user that works there. A path here that has a colon is written `./a:b`.
    #[command(after_long_help = CP_HELP)]
    Cp(Cp),
    /// Starts the lab's bare containers and waits until they let us in.
    Up(Up),
    /// Removes the lab's containers; volumes stay unless asked for.
    Down(Down),
    /// Shows the lab's hosts and containers.
    Ps(Ps),
    /// Opens a shell on a host, or runs a command there.
    Ssh(Ssh),
    /// Shows the logs of services on hosts.
    Logs(Logs),
    /// Looks at the configuration in etcd, and changes it by hand.
    #[command(subcommand)]
    Config(Config),
    /// Checks and shows inventories.
    #[command(subcommand)]
    Inventory(Inventory),
    /// Lists, documents and checks recipes.
    #[command(subcommand)]
    Recipe(Recipe),
    /// Makes the bare SSH image.
    #[command(subcommand)]
    Image(Image),
    /// Prints a shell's completion script.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Which part of the lab takes part.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Selection {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// Only these hosts: names, globs, `@group`, `!exclusion`, separated by commas.
    #[arg(long, value_name = "HOSTS")]
    pub(super) on: Option<String>,

    /// Only these components, separated by commas.
    #[arg(long, value_name = "COMPONENTS", value_delimiter = ',')]
    pub(super) only: Vec<String>,
}

/// How a run goes and what it shows.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct RunOptions {
    /// Works on at most so many hosts at once.
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<usize>,

    /// Prints events as lines of JSON on standard output.
    #[arg(long)]
    pub(super) json: bool,

    /// Prints plain lines even on a terminal.
    #[arg(long)]
    pub(super) plain: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Deploy {
    #[command(flatten)]
    pub(super) selection: Selection,
    #[command(flatten)]
    pub(super) options: RunOptions,

    /// Shows before and after of everything that changes.
    #[arg(long)]
    pub(super) diff: bool,

    /// Does not start the services of these components, and stops those that run: everything else is put into place, so
    /// that one that does not start can be looked at.
    #[arg(long, value_name = "COMPONENTS", value_delimiter = ',')]
    pub(super) safe: Vec<String>,

    /// Also removes what the inventory no longer has: containers of hosts, and keys and logins of components. Named
    /// volumes stay.
    #[arg(long, conflicts_with_all = ["on", "only"])]
    pub(super) prune: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Plan {
    #[command(flatten)]
    pub(super) selection: Selection,
    #[command(flatten)]
    pub(super) options: RunOptions,

    /// Exits with 10 when something would change.
    #[arg(long)]
    pub(super) exit_code: bool,
}

#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(super) struct Push {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// The components, in the order in which the lab needs them: names and globs, separated by commas.
    #[arg(required_unless_present = "build", value_delimiter = ',')]
    pub(super) components: Vec<String>,

    /// All components that have this directory as a parameter.
    #[arg(long, value_name = "DIR", conflicts_with = "components")]
    pub(super) build: Option<PathBuf>,

    /// Only to these hosts of them: names, globs, `@group`, `!exclusion`, separated by commas.
    #[arg(long, value_name = "HOSTS")]
    pub(super) on: Option<String>,

    /// Goes on with every later change until it is interrupted.
    #[arg(short, long, conflicts_with = "check")]
    pub(super) watch: bool,

    /// Goes back to the release before, where the recipe syncs with `release = True`.
    #[arg(long, conflicts_with = "watch")]
    pub(super) rollback: bool,

    /// Shows what would change, and changes nothing.
    #[arg(long)]
    pub(super) check: bool,

    /// Shows before and after of everything that changes.
    #[arg(long)]
    pub(super) diff: bool,

    #[command(flatten)]
    pub(super) options: RunOptions,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sync {
    /// Says whether a path of a tree is synced, and which rule decides.
    Explain {
        /// The path; it need not exist.
        path: PathBuf,
        /// The root of the tree; the outermost directory above the path that has a `.cuisineignore`, else the one that
        /// holds it, when not given.
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
        /// A pattern that the recipe gives as a parameter of `sync`.
        #[arg(long, value_name = "PATTERN")]
        ignore: Vec<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Run {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// The recipe: a name from the inventory's recipe directories, or a path.
    #[arg(required_unless_present = "expression")]
    pub(super) recipe: Option<String>,

    /// One expression instead of a recipe: `package_ensure("htop")`.
    #[arg(short, long, conflicts_with = "recipe")]
    pub(super) expression: Option<String>,

    /// On these hosts: names, globs, `@group`, `!exclusion`, separated by commas.
    #[arg(long, value_name = "HOSTS")]
    pub(super) on: String,

    /// A parameter of the recipe.
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    pub(super) params: Vec<String>,

    /// Shows what would change, and changes nothing.
    #[arg(long)]
    pub(super) check: bool,

    /// Shows before and after of everything that changes.
    #[arg(long)]
    pub(super) diff: bool,

    #[command(flatten)]
    pub(super) options: RunOptions,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Exec {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// On these hosts: names, globs, `@group`, `!exclusion`, separated by commas.
    #[arg(long, value_name = "HOSTS")]
    pub(super) on: String,

    /// As this user.
    #[arg(long)]
    pub(super) user: Option<String>,

    /// Ends the command after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(super) timeout: u32,

    /// The command; several words are joined by blanks and given to a shell.
    #[arg(last = true, required = true)]
    pub(super) command: Vec<String>,

    #[command(flatten)]
    pub(super) options: RunOptions,
}

/// What `cp --help` says below the options.
const CP_HELP: &str = "\
Where a copy lands, as with cp(1):
  cp LAB file HOST:/dir             /dir/file when /dir is a directory, else the file /dir
  cp LAB file HOST:/dir/            /dir/file; /dir must be there
  cp LAB -r tree HOST:/dir          /dir/tree when /dir is a directory, else the directory /dir
  cp LAB -r tree/ HOST:/dir         the same: a slash at the end of SOURCE changes nothing
  cp LAB -r tree/. HOST:/dir        what is in tree, right into /dir
  cp LAB -r HOST:/var/log .         ./log
  cp LAB -r 'HOST-*:/var/log' logs  logs/HOST-1/log, logs/HOST-2/log and so on

Nothing is deleted. Content that is there already is not sent. Modes and times are kept; what is new belongs \
to who writes it. Links are copied as links, and a link that is in the way of a file is replaced, never \
written through; only SOURCE itself may be a link that is followed. Sockets, pipes and devices are left out \
and named. From a host, no set-user-id, set-group-id or sticky bit is taken over.";

#[derive(Debug, ClapArgs)]
pub(super) struct Cp {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// What is copied: a path here, or HOSTS:PATH with names, globs, `@group`, `!exclusion`, separated by commas.
    pub(super) source: OsString,

    /// Where to: HOSTS:PATH, or a path here.
    pub(super) dest: OsString,

    /// Copies directories with all that is in them.
    #[arg(short, long)]
    pub(super) recursive: bool,

    /// Shows what would change, and changes nothing.
    #[arg(long)]
    pub(super) check: bool,

    /// Works on at most so many hosts at once.
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<usize>,

    /// Prints a line of JSON for each host on standard output.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Up {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// Only these hosts.
    #[arg(long, value_name = "HOSTS")]
    pub(super) on: Option<String>,

    #[command(flatten)]
    pub(super) options: RunOptions,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Down {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// Only these hosts.
    #[arg(long, value_name = "HOSTS")]
    pub(super) on: Option<String>,

    /// Also removes the named volumes: their data is lost.
    #[arg(long)]
    pub(super) volumes: bool,

    /// Does not ask before volumes are removed.
    #[arg(short, long)]
    pub(super) yes: bool,

    #[command(flatten)]
    pub(super) options: RunOptions,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Ps {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// Looks at the containers only and asks no host how its components are.
    #[arg(long)]
    pub(super) containers: bool,

    /// Prints JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Ssh {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// The host.
    pub(super) host: String,

    /// A command instead of a shell; several words are joined by blanks.
    #[arg(last = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Logs {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// The hosts: names, globs, `@group`, `component:NAME`, `!exclusion`, separated by commas.
    pub(super) on: String,

    /// The services, or patterns with `*` and `?`; all that recipes defined when not given.
    pub(super) services: Vec<String>,

    /// So many lines of each.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub(super) lines: u32,

    /// Goes on with what comes later until it is interrupted.
    #[arg(short, long)]
    pub(super) follow: bool,

    #[command(flatten)]
    pub(super) options: RunOptions,
}

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Prints keys and values.
    Get {
        /// The inventory file.
        inventory: PathBuf,
        /// A key, or a prefix that ends in `/`, relative to the lab's prefix; everything when not given.
        key: Option<String>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Changes one key by hand: whoever reads it follows at once. The next `deploy` sets it back to what the recipe wants.
    Set {
        /// The inventory file.
        inventory: PathBuf,
        /// The key, relative to the lab's prefix. `KEY|a.b` is the member `b` of the member `a` of a JSON value.
        key: String,
        /// The value; of a member, JSON or a text. `-` reads it from standard input.
        value: String,
        /// Takes a value that is not JSON where there was JSON.
        #[arg(long)]
        force: bool,
    },
    /// Shows how the keys differ from what the recipes want.
    Diff(Plan),
    /// Lists the runs that wrote keys, the last one first.
    History(History),
    /// Takes keys back to what they were, in one transaction: services follow at once.
    ///
    /// Shows what would change and asks. A key that another hand changed since stops it. It is a run like others: it stands in
    /// the history, and can be gone back on. The next `deploy` sets keys to what recipes want then.
    Rollback(Rollback),
}

#[derive(Debug, ClapArgs)]
pub(super) struct History {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// Only these components, separated by commas.
    #[arg(long, value_name = "COMPONENTS", value_delimiter = ',')]
    pub(super) only: Vec<String>,

    /// So many runs.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(super) lines: usize,

    /// Prints each write as a line of JSON, the oldest first.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Rollback {
    /// The inventory file.
    pub(super) inventory: PathBuf,

    /// A run or a revision, as `config history` lists them: what was there after it. Before the last run when not given.
    #[arg(value_name = "RUN|REVISION")]
    pub(super) to: Option<String>,

    /// Only these components, separated by commas.
    #[arg(long, value_name = "COMPONENTS", value_delimiter = ',')]
    pub(super) only: Vec<String>,

    /// Shows what would change and changes nothing.
    #[arg(long, conflicts_with = "yes")]
    pub(super) check: bool,

    /// Does not ask.
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Inventory {
    /// Reads an inventory and says all that is wrong with it.
    Check {
        /// The inventory file.
        inventory: PathBuf,
    },
    /// Shows hosts, groups and components as they are after all defaults and ranges.
    Show {
        /// The inventory file.
        inventory: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Recipe {
    /// Lists the recipes that an inventory (or a directory) has.
    List {
        /// An inventory file or a directory of recipes; `recipes` when not given.
        from: Option<PathBuf>,
    },
    /// Prints a recipe's text and parameters.
    Doc {
        /// Its name, or its folder.
        recipe: String,
        /// An inventory file or a directory of recipes; `recipes` when not given.
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
    },
    /// Compiles recipes and checks their types; with an inventory also the parameters of its components.
    Check {
        /// An inventory file or a directory of recipes; `recipes` when not given.
        from: Option<PathBuf>,
    },
    /// Prints the reference of all functions that recipes may call.
    Functions,
}

#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Builds the bare SSH image with the engine.
    Build {
        /// Process 1 of the image.
        #[arg(long, value_enum, default_value_t = Init::Runit)]
        init: Init,
        /// The base image; Ubuntu when not given. With systemd: the bare SSH image that it is built on.
        #[arg(long, conflicts_with = "rootfs")]
        base: Option<String>,
        /// A root file system, as a directory or tar file, to be the base where no image can be pulled.
        #[arg(long, value_name = "DIR_OR_TAR")]
        rootfs: Option<PathBuf>,
        /// The name of the result; `ovs-cuisine/ssh:latest` when not given, or `ovs-cuisine/ssh:systemd`.
        #[arg(long)]
        tag: Option<String>,
        /// The engine's address; the local one when not given.
        #[arg(long)]
        engine: Option<String>,
    },
}

/// Process 1 of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Init {
    /// Small and quick: enough for all recipes.
    Runit,
    /// For programs that want systemd and take nothing else.
    Systemd,
}

/// Prints a completion script on standard output.
pub(super) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Args::command(), "ovs-cuisine", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
