//! `infall`: arguments in, library calls, an exit code out.
//!
//! `serve` is the server; everything else is a client of its JSON API, but for `check` (which can
//! open a data directory that no server has), `stage` (a client of S3, WebDAV, CDMI and the web),
//! `config` and `doctor`.

mod bucket;
mod check;
mod cli;
mod client;
mod config;
mod console;
mod context;
mod doctor;
mod environment;
mod events;
mod exit;
mod identity;
mod image;
mod login;
mod mount;
mod render;
mod serve;
mod server_file;
mod snapshot;
mod ssh;
mod stage;
mod status;
mod store;
mod tls;
mod units;
mod vm;
mod volume;

use clap::Parser;
use cli::{Cli, Command};
use context::Context;
use exit::{Exit, Failure, Outcome};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                eprintln!("{}", failure.to_json());
            } else {
                eprintln!("error: {failure}       [exit {}]", failure.exit() as u8);
            }
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn run(cli: Cli) -> Outcome {
    let context = Context::new(&cli.global, &cli.command.settings())?;
    // One thread is enough for most clients; who serves or moves bytes takes what the machine has.
    let mut builder = match cli.command {
        Command::Serve(_) | Command::Stage { .. } => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().map_err(|error| {
        Failure::new(Exit::Internal, "runtime", "cannot start the async runtime").because(error)
    })?;
    let outcome = runtime.block_on(Box::pin(dispatch(&context, cli.command)));
    // A store call that still runs is not waited for: what it answered is synced, the rest is not
    // promised.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Serve(arguments) => serve::run(context, arguments).await,
        Command::Bucket { verb } => bucket::run(context, verb).await,
        Command::Image { verb } => image::run(context, verb).await,
        Command::Volume { verb } => volume::run(context, verb).await,
        Command::Snapshot { verb } => snapshot::run(context, verb).await,
        Command::Vm { verb } => vm::run(context, *verb).await,
        Command::User { verb } => identity::user(context, verb).await,
        Command::Group { verb } => identity::group(context, verb).await,
        Command::Role { verb } => identity::role(context, verb).await,
        Command::Policy { verb } => identity::policy(context, verb).await,
        Command::Issuer { verb } => identity::issuer(context, verb).await,
        Command::Login(arguments) => login::login(context, arguments).await,
        Command::Logout => login::logout(context),
        Command::Project { verb } => identity::project(context, verb).await,
        Command::Mount(arguments) => mount::mount(context, arguments).await,
        Command::Umount(arguments) => mount::umount(context, arguments).await,
        Command::Stage { verb } => stage::run(context, *verb).await,
        Command::Store { verb } => store::run(context, verb).await,
        Command::Events(arguments) => events::run(context, arguments).await,
        Command::Status => status::run(context).await,
        Command::Check(arguments) => check::run(context, arguments).await,
        Command::Env(arguments) => environment::run(context, &arguments),
        Command::Tls { verb } => tls::run(context, verb).await,
        Command::Doctor => doctor::run(context).await,
        Command::Config { verb } => config_check(context, &verb),
        Command::Completions { shell } => completions(shell),
        Command::ExitCodes => {
            render::print(&format!("{}\n", exit::EXIT_CODES));
            Ok(())
        }
    }
}

fn config_check(context: &Context, verb: &cli::ConfigVerb) -> Outcome {
    let cli::ConfigVerb::Check = verb;
    #[derive(serde::Serialize)]
    struct Row<'a> {
        key: &'a str,
        value: &'a str,
        from: String,
        env: &'a str,
        help: &'a str,
    }
    let rows: Vec<Row<'_>> = context
        .config
        .rows()
        .map(|(setting, value, origin)| Row {
            key: setting.key,
            value,
            from: origin.to_string(),
            env: setting.env,
            help: setting.help,
        })
        .collect();
    let problems = context.config.image_rules()?.problems()?;
    context.show(&rows, || {
        let mut table = render::Table::new(["KEY", "VALUE", "FROM", "ENVIRONMENT", "MEANING"]);
        for row in &rows {
            let value = if row.value.is_empty() { "-" } else { row.value };
            table.row([row.key, value, &row.from, row.env, row.help]);
        }
        let file = match &context.config.file {
            Some(file) => format!("{} reads well.\n", file.display()),
            None => match config::default_file(&|name| std::env::var(name).ok()) {
                Some(file) => format!("No file; it would be {}.\n", file.display()),
                None => "No file.\n".into(),
            },
        };
        let problems = problems.iter().fold(String::new(), |text, problem| {
            format!("{text}images.signers, {}\n", render::plain(problem))
        });
        format!("{table}{problems}{file}")
    });
    Ok(())
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(
        shell,
        &mut <Cli as clap::CommandFactory>::command(),
        "infall",
        &mut text,
    );
    render::print(&String::from_utf8_lossy(&text));
    Ok(())
}
