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

use std::collections::{BTreeMap, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command as Process};

use crate::{Failure, Handler, JobsError, Progress, Run, Stop};

/// The longest line of its output that is read.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// What is kept of what it says on standard error: its end.
const ERROR_BYTES: usize = 2_048;
/// The most that a checkpoint may hold.
const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The most files of a checkpoint.
const CHECKPOINT_FILES_MAX: usize = 5_000;
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
    /// Where checkpoints are unpacked while a program runs.
    work: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    command: String,
    #[serde(default)]
    input: Value,
}

impl Commands {
    /// Programs of these names. `work` is a folder for what they need while they run.
    #[must_use]
    pub fn new(commands: Vec<Command>, work: PathBuf) -> Commands {
        Commands { commands: commands.into_iter().map(|command| (command.name.clone(), command)).collect(), work }
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
        let place = self.work.join(format!("{}-{}", run.job().id, run.job().epoch));
        let place = Place::make(&place).await.map_err(|error| unusable(&error))?;
        restore(run, &place.0).await?;
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
        let follow = self.follow(run, &mut child, &group, &place.0);
        let (outcome, said, ()) = tokio::join!(follow, last_of(errors), give);
        let (status, result) = outcome?;
        ended(status, result, &said, run.is_stopped())
    }

    /// Follows the program until it has ended.
    async fn follow(
        &self,
        run: &Run,
        child: &mut Child,
        group: &Group,
        place: &Path,
    ) -> Result<(ExitStatus, Option<Value>), Failure> {
        let mut lines = child.stdout.take().map(Lines::new);
        let (mut result, mut is_told, mut ended) = (None, false, None);
        loop {
            tokio::select! {
                line = next_line(&mut lines), if lines.is_some() => match line {
                    Some(text) => match heard(&text) {
                        Heard::Progress(progress) => run.progress(progress),
                        Heard::Checkpoint => keep(run, place).await?,
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
                    keep(run, place).await?;
                }
                return Ok((status, result));
            }
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
        .env("HALNY_CHECKPOINT", place)
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

/// A line of a program's output that says something.
enum Heard {
    Progress(Progress),
    Checkpoint,
    Result(Value),
    Nothing,
}

fn heard(line: &str) -> Heard {
    let mut words = line.splitn(4, ' ');
    match words.next() {
        Some("checkpoint") if words.next().is_none() => Heard::Checkpoint,
        Some("progress") => {
            let done = words.next().and_then(|word| word.parse().ok());
            let total = words.next().and_then(|word| word.parse().ok());
            let message = words.next().unwrap_or_default().to_owned();
            done.map_or(Heard::Nothing, |done| Heard::Progress(Progress { done, total, message }))
        }
        _ => serde_json::from_str(line).map_or(Heard::Nothing, Heard::Result),
    }
}

/// The lines of an output. What is longer than a line may be is passed over whole.
struct Lines<R> {
    output: BufReader<R>,
    line: Vec<u8>,
    is_long: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(output: R) -> Lines<R> {
        Lines { output: BufReader::new(output), line: Vec::new(), is_long: false }
    }

    /// The next line; nothing at the end. Dropped where it waits, it loses nothing.
    async fn next(&mut self) -> Option<String> {
        loop {
            let piece = self.output.fill_buf().await.ok()?;
            let is_over = piece.is_empty();
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(piece.len(), |end| end + 1);
            if self.line.len() + taken > LINE_BYTES_MAX {
                self.is_long = true;
                self.line.clear();
            } else if !self.is_long {
                self.line.extend_from_slice(piece.get(..taken).unwrap_or_default());
            }
            self.output.consume(taken);
            if is_over && self.line.is_empty() {
                return None;
            }
            if end.is_some() || is_over {
                let is_long = std::mem::take(&mut self.is_long);
                let text = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned();
                if !is_long {
                    return Some(text);
                }
                if is_over {
                    return None;
                }
            }
        }
    }
}

async fn next_line<R: AsyncRead + Unpin>(lines: &mut Option<Lines<R>>) -> Option<String> {
    lines.as_mut()?.next().await
}

/// The end of what a program says.
async fn last_of(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let (mut end, mut piece) = (Vec::new(), vec![0; 8_192]);
    while let Ok(count) = output.read(&mut piece).await {
        if count == 0 {
            break;
        }
        end.extend_from_slice(piece.get(..count).unwrap_or_default());
        let over = end.len().saturating_sub(ERROR_BYTES);
        end.drain(..over);
    }
    String::from_utf8_lossy(&end).trim().to_owned()
}

/// A folder that goes with whoever has it.
struct Place(PathBuf);

impl Place {
    async fn make(path: &Path) -> std::io::Result<Place> {
        let _ = tokio::fs::remove_dir_all(path).await;
        tokio::fs::create_dir_all(path).await?;
        Ok(Place(path.to_path_buf()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "the folder of a command's checkpoint stays");
        }
    }
}

/// Keeps what is in the folder: each file a blob of the job's, and a checkpoint that names them.
async fn keep(run: &Run, place: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    let mut bytes = 0;
    let found = files_below(place).await.map_err(|error| unusable(&error))?;
    if found.len() > CHECKPOINT_FILES_MAX {
        return Err(Failure::Fatal(format!("the checkpoint has more than {CHECKPOINT_FILES_MAX} files")));
    }
    for path in found {
        // Gone or renamed since it was listed: it is not part of what was finished.
        let Ok(known) = tokio::fs::metadata(&path).await else { continue };
        bytes += known.len();
        if bytes > CHECKPOINT_BYTES_MAX {
            return Err(Failure::Fatal(format!("the checkpoint has more than {CHECKPOINT_BYTES_MAX} bytes")));
        }
        let content = match tokio::fs::read(&path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            content => content.map_err(|error| unusable(&error))?,
        };
        let digest = digest(&content);
        // By its digest: a file that did not change is written once.
        let blob = format!("{}/files/{digest}", run.folder());
        run.jobs().blobs().put(&blob, content.into()).await.map_err(|error| Failure::Retry(error.to_string()))?;
        let name = path.strip_prefix(place).unwrap_or(&path).to_string_lossy().into_owned();
        files.push(json!({ "name": name, "blob": blob }));
    }
    if !files.is_empty() {
        run.checkpoint(&json!({ "files": files })).await?;
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn files_below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        let mut entries = tokio::fs::read_dir(&folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            let kind = entry.file_type().await?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && files.len() <= CHECKPOINT_FILES_MAX {
                // Links lead elsewhere: what is there is not the program's to keep.
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[derive(Debug, Deserialize)]
struct Manifest {
    files: Vec<Kept>,
}

#[derive(Debug, Deserialize)]
struct Kept {
    name: String,
    blob: String,
}

/// Puts back what the last checkpoint kept.
async fn restore(run: &Run, place: &Path) -> Result<(), Failure> {
    let Some(manifest) = run.resumed() else { return Ok(()) };
    let manifest: Manifest = serde_json::from_value(manifest.clone())
        .map_err(|error| JobsError::Unreadable(format!("its checkpoint cannot be read: {error}")))?;
    for file in manifest.files {
        let bytes = run.jobs().blobs().get(&file.blob).await.map_err(|error| Failure::Retry(error.to_string()))?;
        // The manifest is a blob, and a place of blobs may be written to by others.
        if !Path::new(&file.name).components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            return Err(Failure::Fatal("its checkpoint names a file outside of its folder".to_owned()));
        }
        let path = place.join(&file.name);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(|error| unusable(&error))?;
        }
        tokio::fs::write(&path, &bytes).await.map_err(|error| unusable(&error))?;
    }
    Ok(())
}

impl Handler for Commands {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn check(&self, payload: &Value) -> Result<(), String> {
        self.order(payload).map(|_| ())
    }

    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Result<Value, Failure>> {
        Box::pin(self.work(run))
    }
}
