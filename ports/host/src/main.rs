//! The proplet's command line.

use anyhow::Result;
use proplet_host::{
    bench,
    cli::{Cli, Command},
    demo, proplet, run, sign,
    sources::{self, Environment},
};
use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let environment = Environment::new(std::env::vars_os());
    let (cli, notes) = sources::parse(&args, &environment).unwrap_or_else(|error| error.exit());
    start_log(&cli, environment.text("PROPLET_LOG_LEVEL"));
    for (level, note) in notes {
        log::log!(level, "{note}");
    }
    match execute(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs on stderr by RUST_LOG, or else at the Linux proplet's PROPLET_LOG_LEVEL.
fn start_log(cli: &Cli, level: Option<&str>) {
    let usual = match cli.command {
        Some(Command::Join(_)) => "info",
        _ => "error",
    };
    let level = level.unwrap_or(usual);
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
