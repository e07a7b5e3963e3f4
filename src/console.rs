//! `infall vm console`: a guest's serial console, to read, to follow, to type at.

use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::render;
use clap::Args;
use rustix::termios::{self, OptionalActions, Termios};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::Duration;

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;
/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What to do with the console.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The instance
    name: String,
    /// Print so many of the last lines
    #[arg(long, default_value_t = 100)]
    lines: usize,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short, conflicts_with = "attach")]
    follow: bool,
    /// Type at it; leave with Ctrl-]
    #[arg(long)]
    attach: bool,
}

/// Does it.
pub(crate) async fn run(context: &Context, client: &Client, arguments: &Arguments) -> Outcome {
    let path = Path::new(["vms", &arguments.name, "console"])
        .query([("lines", Some(arguments.lines.to_string()))]);
    let console: vmctl::Console = client.get(&path).await?;
    if arguments.attach {
        let terminal = console.terminal.ok_or_else(|| {
            let message = format!(
                "instance {:?} does not run, so nobody reads what you type",
                arguments.name
            );
            Failure::new(Exit::Conflict, "instance", message)
                .hint(format!("Start it: infall vm start {}", arguments.name))
        })?;
        let opened = File::options().read(true).write(true).open(&terminal);
        let opened = opened.map_err(|error| elsewhere(&terminal, &error))?;
        return tokio::task::spawn_blocking(move || attach(&opened))
            .await
            .map_err(|error| {
                Failure::new(Exit::Internal, "console", "the console broke off").because(error)
            })?;
    }
    context.show(&console, || {
        console
            .lines
            .iter()
            .map(|line| format!("{}\n", readable(line)))
            .collect()
    });
    if arguments.follow {
        follow(&console.log).await?;
    }
    Ok(())
}

/// What a guest writes may not steer the terminal of who reads it; tabs may stay.
fn readable(line: &str) -> String {
    line.split('\t')
        .map(render::plain)
        .collect::<Vec<_>>()
        .join("\t")
}

async fn follow(log: &std::path::Path) -> Outcome {
    let failed = |error: io::Error| elsewhere(log, &error);
    let mut file = File::open(log).map_err(failed)?;
    file.seek(SeekFrom::End(0)).map_err(failed)?;
    let mut part = Vec::new();
    loop {
        let before = part.len();
        file.read_to_end(&mut part).map_err(failed)?;
        if let Some(end) = part.iter().rposition(|byte| *byte == b'\n') {
            let whole: Vec<u8> = part.drain(..=end).collect();
            for line in String::from_utf8_lossy(&whole).lines() {
                render::print(&format!("{}\n", readable(line.trim_matches('\r'))));
            }
        } else if part.len() == before {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Standard input to the guest and back, until Ctrl-], or until either side ends.
fn attach(terminal: &File) -> Outcome {
    let failed = |error: io::Error| Failure::io("use the terminal", &error);
    eprintln!("attached; leave with Ctrl-]");
    let _raw = Raw::enter().map_err(failed)?;
    let mut output = terminal.try_clone().map_err(failed)?;
    // This thread ends with the process: a blocked read has no other end.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            let mut screen = io::stdout().lock();
            if screen
                .write_all(&buffer[..count])
                .and_then(|()| screen.flush())
                .is_err()
            {
                break;
            }
        }
    });
    let (mut keys, mut buffer) = (io::stdin().lock(), [0; 256]);
    let mut input = terminal;
    loop {
        let count = keys.read(&mut buffer).map_err(failed)?;
        let typed = &buffer[..count];
        let left = typed.iter().position(|byte| *byte == LEAVE);
        input
            .write_all(&typed[..left.unwrap_or(count)])
            .map_err(failed)?;
        if left.is_some() || count == 0 {
            return Ok(());
        }
    }
}

fn elsewhere(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::io(format_args!("open {}", path.display()), error)
        .hint("It is a file of the server's machine, often root's: run this there, with sudo")
}

/// The terminal without line editing, as it was again when dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> io::Result<Self> {
        let Ok(before) = termios::tcgetattr(io::stdin()) else {
            // A pipe needs no mode.
            return Ok(Self(None));
        };
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no repair.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn a_guest_cannot_steer_the_terminal() {
        assert_eq!(readable("a\tb\u{1b}[2Jc"), "a\tb\\u{1b}[2Jc");
    }
}
