//! A PostgreSQL server of a test's own, on a socket in a temporary folder.
//!
//! HALNY_POSTGRES names the folder of its programs; `make test-rust` sets it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

/// `nobody`: PostgreSQL does not run as root.
const NOBODY: u32 = 65_534;

/// A PostgreSQL server, which ends with it.
pub struct PostgresServer {
    folder: TempDir,
    bin: PathBuf,
    child: Option<Child>,
}

impl PostgresServer {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// When there is no PostgreSQL where HALNY_POSTGRES says.
    #[must_use]
    pub fn start() -> PostgresServer {
        let bin = std::env::var_os("HALNY_POSTGRES").map(PathBuf::from).unwrap_or_else(|| {
            panic!(
                "HALNY_POSTGRES has to name the folder bin of a PostgreSQL with pgvector: \
                 run `make test-rust`, or `python3 tools/setup postgres` and set it to what that says"
            )
        });
        assert!(
            bin.join("postgres").is_file(),
            "there is no postgres in {}; run `python3 tools/setup postgres`",
            bin.display()
        );
        let folder = TempDir::with_prefix("halny-pg-").unwrap();
        if getuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let bin = if getuid().is_root() && !reachable(&bin) { copied(&bin, folder.path()) } else { bin };
        let mut server = PostgresServer { folder, bin, child: None };
        let made = server
            .command("initdb")
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(server.folder.path().join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        server
    }

    /// Starts it, and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not start.
    pub fn run(&mut self) {
        let socket = format!("unix_socket_directories={}", self.folder.path().display());
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.folder.path().join("data"));
        for setting in [&socket, "listen_addresses=", "fsync=off", "shared_buffers=32MB", "max_connections=40"] {
            command.args(["-c", setting]);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).find(|line| line.contains("ready to accept connections"));
        assert!(ready.is_some(), "PostgreSQL did not start");
        // What it goes on to say has to be read, or it waits.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    /// Ends it at once, as a crash does; its children follow.
    pub fn crash(&mut self) {
        self.end(Signal::QUIT);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            child.wait().unwrap();
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Where a database of it is.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.path().display())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        if getuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.end(Signal::INT);
    }
}

/// Whether everybody may go there: a cache in root's home is closed to `nobody`.
fn reachable(path: &Path) -> bool {
    path.ancestors().all(|folder| std::fs::metadata(folder).is_ok_and(|known| known.permissions().mode() & 0o1 == 0o1))
}

/// A copy of the programs and what they look for beside themselves, a wheel's libraries included.
fn copied(bin: &Path, folder: &Path) -> PathBuf {
    let (from, into) = (bin.parent().unwrap(), folder.join("wheel/package/install"));
    for part in ["bin/postgres", "bin/initdb", "lib", "share"] {
        copy(&from.join(part), &into.join(part));
    }
    if let Some(wheel) = bin.ancestors().nth(3) {
        let beside = std::fs::read_dir(wheel).unwrap().map(|entry| entry.unwrap().path());
        for libraries in beside.filter(|path| path.extension().is_some_and(|extension| extension == "libs")) {
            copy(&libraries, &folder.join("wheel").join(libraries.file_name().unwrap()));
        }
    }
    into.join("bin")
}

fn copy(from: &Path, into: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(into).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &into.join(entry.file_name()));
        }
    } else {
        std::fs::create_dir_all(into.parent().unwrap()).unwrap();
        std::fs::copy(from, into).unwrap();
    }
}
