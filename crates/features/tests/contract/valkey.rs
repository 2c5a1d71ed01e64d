//! A Valkey or Redis server of a test's own, on a socket in a temporary folder.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub(crate) struct Server {
    folder: TempDir,
    child: Child,
}

/// The program that HALNY_VALKEY names, or one of the two on the path.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("HALNY_VALKEY") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "there is no program {}, which HALNY_VALKEY names", named.display());
        return named;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| ["valkey-server", "redis-server"].map(|name| folder.join(name)))
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "HALNY_VALKEY has to name the program valkey-server or redis-server, or one of them has to be on the PATH: \
             run `make test-rust`, or `python3 tools/setup valkey` and set it to what that says"
        )
    })
}

impl Server {
    pub(crate) fn start() -> Server {
        let folder = TempDir::with_prefix("halny-valkey-").unwrap();
        let mut child = Command::new(program())
            .current_dir(folder.path())
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--maxclients", "64", "--unixsocket"])
            .arg(folder.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).find(|line| line.contains("eady to accept connections"));
        assert!(ready.is_some(), "the server did not start");
        // What it goes on to say has to be read, or it waits.
        std::thread::spawn(move || lines.for_each(drop));
        Server { folder, child }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("socket").display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
