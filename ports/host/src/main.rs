//! The proplet's command line.

use anyhow::Result;
use clap::Parser as _;
use proplet_host::{
    bench,
    cli::{Cli, Command},
    demo, proplet, run, sign,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(matches!(cli.command, Some(Command::Join(_))));
    match execute(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs on stderr by RUST_LOG, or else at the Linux proplet's PROPLET_LOG_LEVEL.
fn start_log(joins: bool) {
    let level = std::env::var("PROPLET_LOG_LEVEL");
    let level = level
        .as_deref()
        .unwrap_or(if joins { "info" } else { "error" });
    // The demo's broker logs its spans, all as errors.
    let filter = format!("{level},rumqttd=off,tracing=off");
    let env = env_logger::Env::default().default_filter_or(filter);
    env_logger::Builder::from_env(env).init();
}

fn execute(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        None | Some(Command::Demo) => demo::demo(),
        Some(Command::Join(join)) => proplet::join(join).map(|()| ExitCode::SUCCESS),
        Some(Command::Run(options)) => print(run::run(options)?),
        Some(Command::Bench(options)) => bench::bench(options),
        Some(Command::Keygen(options)) => print(sign::keygen(options)?),
        Some(Command::Sign(options)) => print(sign::sign(options)?),
        Some(Command::Verify(options)) => print(sign::verify(options)?),
    }
}

fn print(result: String) -> Result<ExitCode> {
    println!("{result}");
    Ok(ExitCode::SUCCESS)
}
