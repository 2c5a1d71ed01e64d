//! Where programs have their folders while they run.
//!
//! A server holds a folder by a lock, which goes with its process however that ends. Whoever opens the place next ends the
//! programs that a server left behind, and removes their folders.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// What a lock is called, behind the name of the folder that it holds.
const LOCK: &str = "lock";
/// The variable that tells a program where its folder is.
pub(super) const CHECKPOINT: &str = "HALNY_CHECKPOINT";

/// The folder of a server, in which its programs have theirs.
#[derive(Debug)]
pub(super) struct Workshop {
    folder: PathBuf,
    /// The lock file, locked.
    _lock: File,
}

impl Workshop {
    /// Makes a folder below `work`, and cleans up after servers that are gone.
    pub(super) fn open(work: &Path) -> io::Result<Workshop> {
        fs::create_dir_all(work)?;
        // Programs run elsewhere, and are told where it is.
        let work = work.canonicalize()?;
        for entry in fs::read_dir(&work)? {
            let lock = entry?.path();
            if lock.extension() == Some(OsStr::new(LOCK))
                && let Err(error) = sweep(&lock)
            {
                tracing::warn!(%error, lock = %lock.display(), "what a server left behind cannot be removed");
            }
        }
        let folder = work.join(uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string());
        // Locked before it has the name by which another that sweeps finds it, and the lock before the folder.
        let hidden = folder.with_extension("new");
        let lock = File::create_new(&hidden)?;
        lock.try_lock()?;
        fs::rename(&hidden, folder.with_extension(LOCK))?;
        fs::create_dir(&folder)?;
        Ok(Workshop { folder, _lock: lock })
    }

    /// An empty folder of that name.
    pub(super) fn place(&self, name: &str) -> io::Result<Place> {
        let folder = self.folder.join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        Ok(Place(folder))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let gone = fs::remove_dir_all(&self.folder).and_then(|()| fs::remove_file(self.folder.with_extension(LOCK)));
        if let Err(error) = gone {
            tracing::warn!(%error, "the folder of commands stays until the next start");
        }
    }
}

/// A folder that goes with whoever has it.
pub(super) struct Place(pub(super) PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "the folder of a command's checkpoint stays");
        }
    }
}

/// Removes what the server has left whose lock this is, if it is gone.
fn sweep(lock: &Path) -> io::Result<()> {
    let present = |done: io::Result<()>| match done {
        // Another that sweeps was quicker.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    let Ok(file) = File::open(lock) else { return Ok(()) };
    if file.try_lock().is_err() {
        return Ok(());
    }
    let folder = lock.with_extension("");
    end_programs(&folder);
    present(fs::remove_dir_all(&folder))?;
    present(fs::remove_file(lock))
}

/// Ends all processes that were told to leave their checkpoints below this folder.
fn end_programs(folder: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let told = [CHECKPOINT.as_bytes(), b"=", folder.as_os_str().as_bytes(), b"/"].concat();
    for process in processes.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(&told)) {
            tracing::warn!(id = id.as_raw_nonzero().get(), "a program of a server that is gone is ended");
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_a_server_left_behind_goes_and_what_one_has_stays() {
        let work = tempfile::tempdir().unwrap();
        let mine = Workshop::open(work.path()).unwrap();
        let kept = mine.place("1-1").unwrap();
        fs::write(kept.0.join("file"), "kept").unwrap();
        let left = work.path().join("00000000-0000-4000-8000-000000000000");
        fs::create_dir_all(left.join("2-1")).unwrap();
        fs::write(left.with_extension(LOCK), "").unwrap();
        let program = |place: &Path| {
            let mut command = Command::new("sleep");
            command.arg("60").env(CHECKPOINT, place).stdin(Stdio::null()).spawn().unwrap()
        };
        let (mut running, mut forgotten) = (program(&kept.0), program(&left.join("2-1")));
        let other = Workshop::open(work.path()).unwrap();
        assert!(!left.exists() && !left.with_extension(LOCK).exists());
        assert_eq!(fs::read_to_string(kept.0.join("file")).unwrap(), "kept");
        assert_eq!(forgotten.wait().unwrap().signal(), Some(9), "a program that was left behind went on");
        assert!(running.try_wait().unwrap().is_none(), "a program of a server that is there was ended");
        running.kill().unwrap();
        running.wait().unwrap();
        drop((kept, mine, other));
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "nothing stays of a server that ended well");
    }
}
