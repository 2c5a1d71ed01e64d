//! `command`: runs a program of the project's.
//!
//! Which programs there are is said by the project alone; a job names one, and what it tells comes as JSON on standard
//! input, never as an argument or a variable. The program runs in a process group of its own, with little of this
//! server's environment, and within limits of its own.
//!
//! - `HALNY_JOB_ID`, `HALNY_JOB_ATTEMPT`: which job, and which try.
//! - `HALNY_CHECKPOINT`: a folder. What the program leaves in it is there again when the job is run again. It is kept when
//!   the program prints a line `checkpoint`, and when it ends after SIGTERM.
//! - A line `progress DONE TOTAL TEXT` on standard output says how far it is; the last other line that is JSON is the result.
//! - SIGTERM means: stop, and leave a checkpoint. SIGKILL follows after the grace period.
//! - It is done when it ends with 0; 75 (`EX_TEMPFAIL`) and every other code is a try that failed; 64 (`EX_USAGE`) one
//!   that will not succeed.

mod checkpoint;
mod output;
mod place;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::BoxFuture;
use halny_types::project::jobs::JobKind;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command as Process};

use crate::{Failure, Handler, Run, Stop};
use checkpoint::Checkpoints;
use output::{Heard, Lines, heard, last_of, next_line};
use place::Workshop;

/// The code of `sysexits.h` for a wrong use: it stays wrong.
const EX_USAGE: i32 = 64;

/// A program that jobs may run.
#[derive(Clone, Debug)]
pub struct Command {
    /// The name that jobs know it by.
    pub name: String,
    /// The program and its arguments.
    pub program: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Its environment, beside `PATH`, `HOME`, `LANG` and what tells it of its job.
    pub env: BTreeMap<String, String>,
    /// The most address space of one of its processes, in bytes.
    pub memory: Option<u64>,
    /// The most processor time of one of its processes.
    pub cpu: Option<Duration>,
}

/// Runs programs.
pub struct Commands {
    commands: HashMap<String, Command>,
    workshop: Workshop,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    command: String,
    #[serde(default)]
    input: Value,
}

impl Commands {
    /// Programs of these names. `work` is a folder of this host for what they need while they run; what a server that is
    /// gone has left in it is removed, its programs ended.
    ///
    /// # Errors
    /// When the folder cannot be made or cleaned up.
    pub fn open(commands: Vec<Command>, work: &Path) -> std::io::Result<Commands> {
        let commands = commands.into_iter().map(|command| (command.name.clone(), command)).collect();
        Ok(Commands { commands, workshop: Workshop::open(work)? })
    }

    fn order(&self, payload: &Value) -> Result<(Order, &Command), String> {
        let order: Order =
            serde_json::from_value(payload.clone()).map_err(|error| format!("this is no order to run: {error}"))?;
        match self.commands.get(&order.command) {
            Some(command) => Ok((order, command)),
            None => Err("there is no command of that name; the project declares them in [[commands]]".to_owned()),
        }
    }

    async fn work(&self, run: &Run) -> Result<Value, Failure> {
        let (order, command) = self.order(run.payload()).map_err(Failure::Fatal)?;
        let place = self.workshop.place(&format!("{}-{}", run.job().id, run.job().epoch));
        let place = place.map_err(|error| unusable(&error))?;
        let mut checkpoints = Checkpoints::restored(run, &place.0).await?;
        let mut child = start(command, run, &place.0).map_err(|error| {
            Failure::Fatal(format!("the program of the command {:?} cannot be started: {error}", command.name))
        })?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        limit(command, &group);
        let (input, stdin, errors) = (order.input.to_string(), child.stdin.take(), child.stderr.take());
        let give = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read it does not want it.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let follow = follow(run, &mut child, &group, &mut checkpoints);
        let (outcome, said, ()) = tokio::join!(follow, last_of(errors), give);
        let (status, result) = outcome?;
        ended(status, result, &said, run.is_stopped())
    }
}

/// Follows the program until it has ended.
async fn follow(
    run: &Run,
    child: &mut Child,
    group: &Group,
    checkpoints: &mut Checkpoints<'_>,
) -> Result<(ExitStatus, Option<Value>), Failure> {
    let mut lines = child.stdout.take().map(Lines::new);
    let (mut result, mut is_told, mut ended) = (None, false, None);
    loop {
        tokio::select! {
            line = next_line(&mut lines), if lines.is_some() => match line {
                Some(text) => match heard(&text) {
                    Heard::Progress(progress) => run.progress(progress),
                    Heard::Checkpoint => checkpoints.keep().await?,
                    Heard::Result(value) => result = Some(value),
                    Heard::Nothing => {}
                },
                None => lines = None,
            },
            status = child.wait(), if ended.is_none() => {
                ended = Some(status.map_err(|error| unusable(&error))?);
                // What it left behind holds its output open, and is not wanted.
                group.signal(Signal::KILL);
            }
            _ = run.stopped(), if !is_told && ended.is_none() => {
                is_told = true;
                group.signal(Signal::TERM);
            }
        }
        if let Some(status) = ended.filter(|_| lines.is_none()) {
            if is_told && run.is_stopped() != Some(Stop::Lost) {
                checkpoints.keep().await?;
            }
            return Ok((status, result));
        }
    }
}

/// How a try ended, by how the program did.
fn ended(status: ExitStatus, result: Option<Value>, said: &str, stop: Option<Stop>) -> Result<Value, Failure> {
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(result.unwrap_or(Value::Null)),
        _ if stop.is_some() => return Err(Failure::Stopped),
        (Some(EX_USAGE), _) => return Err(Failure::Fatal(format!("the program ended with {EX_USAGE}: {said}"))),
        (Some(code), _) => format!("the program ended with {code}"),
        (None, Some(signal)) => format!("the program was ended by signal {signal}"),
        (None, None) => "the program ended".to_owned(),
    };
    Err(Failure::Retry(if said.is_empty() { how } else { format!("{how}: {said}") }))
}

fn unusable(error: &std::io::Error) -> Failure {
    Failure::Retry(format!("the folder of the job cannot be used: {}", error.kind()))
}

fn start(command: &Command, run: &Run, place: &Path) -> std::io::Result<Child> {
    let (program, arguments) = command.program.split_first().ok_or(std::io::ErrorKind::NotFound)?;
    let mut process = Process::new(program);
    process.args(arguments).current_dir(&command.folder).env_clear();
    // What finds programs and writes texts; no key and no password of this server.
    for name in ["PATH", "HOME", "LANG"] {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    process
        .envs(&command.env)
        .env("HALNY_JOB_ID", run.job().id.to_string())
        .env("HALNY_JOB_ATTEMPT", (run.job().failures + 1).to_string())
        .env(place::CHECKPOINT, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The processes of a program. What is left of them goes with it.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Sets the limits of a program that has just been started; its children inherit them.
fn limit(command: &Command, group: &Group) {
    let set = |resource, most: u64| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = prlimit(group.0, resource, limit) {
            tracing::warn!(%error, command = command.name, "a limit of a command could not be set");
        }
    };
    if let Some(bytes) = command.memory {
        set(Resource::As, bytes);
    }
    if let Some(cpu) = command.cpu {
        set(Resource::Cpu, cpu.as_secs().max(1));
    }
    set(Resource::Core, 0);
}

impl Handler for Commands {
    fn kind(&self) -> &'static str {
        JobKind::Command.as_str()
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        self.order(payload).map(|_| ())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.work(run))
    }
}
