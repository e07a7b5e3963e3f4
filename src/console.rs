//! `infall vm console`: a guest's serial console, to read, to follow, to type at.

use crate::client::{Client, Path};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::render;
use clap::Args;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{self, Read, Write};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Ctrl-], as telnet and virsh have it.
const LEAVE: u8 = 0x1d;
/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Reads of standard input that wait for the server at most.
const CHUNKS_MAX: usize = 8;

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
    if arguments.attach {
        let path = Path::new(["vms", &arguments.name, "console", "attach"]);
        let guest = client.tunnel(&path).await?;
        return attach(guest).await;
    }
    let path = Path::new(["vms", &arguments.name, "console"]);
    let asked = path
        .clone()
        .query([("lines", Some(arguments.lines.to_string()))]);
    let console: vmctl::Console = client.get(&asked).await?;
    context.show(&console, || text(&console));
    if arguments.follow {
        follow(client, &path, console.end).await?;
    }
    Ok(())
}

fn text(console: &vmctl::Console) -> String {
    let lines = console.lines.iter();
    lines.map(|line| format!("{}\n", readable(line))).collect()
}

/// What a guest writes may not steer the terminal of who reads it; tabs may stay.
fn readable(line: &str) -> String {
    line.split('\t')
        .map(render::plain)
        .collect::<Vec<_>>()
        .join("\t")
}

async fn follow(client: &Client, path: &Path, mut after: u64) -> Outcome {
    loop {
        let asked = path.clone().query([("after", Some(after.to_string()))]);
        let console: vmctl::Console = client.get(&asked).await?;
        after = console.end;
        match console.lines.is_empty() {
            true => tokio::time::sleep(LOOK).await,
            false => render::print(&text(&console)),
        }
    }
}

/// Standard input to the guest and back, until Ctrl-], or until either side ends.
async fn attach(guest: impl AsyncRead + AsyncWrite) -> Outcome {
    let failed = |error: io::Error| Failure::io("use the console", &error);
    eprintln!("attached; leave with Ctrl-]");
    let _raw = Raw::enter().map_err(failed)?;
    let (mut screen, mut keys) = tokio::io::split(guest);
    let mut typed = Typed::start();
    let shown = to_output(&mut screen);
    let told = async {
        while let Some(bytes) = typed.next().await {
            let left = bytes.iter().position(|byte| *byte == LEAVE);
            keys.write_all(&bytes[..left.unwrap_or(bytes.len())])
                .await?;
            keys.flush().await?;
            if left.is_some() {
                return Ok(());
            }
        }
        Ok(())
    };
    tokio::select! {
        shown = shown => shown,
        told = told => told,
    }
    .map_err(failed)
}

/// Everything that comes, to standard output, as it comes.
pub(crate) async fn to_output(from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        // Whoever does not read on holds up only what was made for them.
        let mut output = io::stdout().lock();
        output.write_all(&buffer[..count])?;
        output.flush()?;
    }
}

/// Standard input as it comes. Its thread ends with the process: a blocked read has no other end.
pub(crate) struct Typed(mpsc::Receiver<Vec<u8>>);

impl Typed {
    pub(crate) fn start() -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        std::thread::spawn(move || {
            let (mut keys, mut buffer) = (io::stdin().lock(), [0; 16 << 10]);
            while let Ok(count @ 1..) = keys.read(&mut buffer) {
                if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// None at its end.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.0.recv().await
    }
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
