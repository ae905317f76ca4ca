//! The command line: arguments at the door, one file per command, failures with hints and exit codes.

mod ad_hoc;
mod args;
mod config;
mod cp;
mod deploy;
mod failure;
mod history;
mod image;
mod inventory;
mod lab;
mod logs;
mod output;
mod push;
mod recipe;
mod run;
mod ssh;
mod sync;

use std::process::ExitCode;

use clap::Parser;

use self::{
    args::{Args, Command},
    failure::{Exit, Failure},
};

/// Runs the command that the process was started with; gives its exit status.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    output::start_logging(args.verbose, args.trace_all);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&Failure::internal("cannot start the asynchronous runtime", error)),
    };
    let ended = runtime.block_on(dispatch(args));
    // Threads that still read a file or wait for a host must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => output::fail(&failure),
    }
}

async fn dispatch(args: Args) -> Result<Exit, Failure> {
    match args.command {
        Command::Deploy(command) => deploy::deploy(command, args.verbose).await,
        Command::Plan(command) => deploy::plan(command, args.verbose).await,
        Command::Push(command) => push::push(command, args.verbose).await,
        Command::Sync(command) => sync::sync(command),
        Command::Run(command) => ad_hoc::run_recipe(command, args.verbose).await,
        Command::Exec(command) => ad_hoc::exec(command, args.verbose).await,
        Command::Cp(command) => cp::cp(command, args.verbose).await,
        Command::Up(command) => lab::up(command, args.verbose).await,
        Command::Down(command) => lab::down(command, args.verbose).await,
        Command::Ps(command) => lab::ps(command).await,
        Command::Logs(command) => logs::logs(command, args.verbose).await,
        Command::Ssh(command) => ssh::ssh(command).await,
        Command::Config(command) => config::config(command, args.verbose).await,
        Command::Inventory(command) => inventory::inventory(command),
        Command::Recipe(command) => recipe::recipe(command),
        Command::Image(command) => image::image(command).await,
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(Exit::Done)
        }
    }
}

/// Help and version are results; anything else about usage is bad input.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be said when standard output is gone.
    let _ = error.print();
    if error.use_stderr() { Exit::BadInput.into() } else { Exit::Done.into() }
}
