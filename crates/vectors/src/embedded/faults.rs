//! Where tests make the disk fail, or have a thread wait.

#[cfg(not(test))]
pub(crate) use off::at;
#[cfg(test)]
pub(crate) use on::{at, set};

#[cfg(not(test))]
mod off {
    use std::io;
    use std::path::Path;

    /// Nothing fails here but in tests.
    #[inline]
    #[expect(clippy::unnecessary_wraps, reason = "in tests it does fail")]
    pub(crate) fn at(_point: &str, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod on {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use parking_lot::Mutex;

    type Fault = Arc<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

    static FAULTS: Mutex<Vec<(&'static str, PathBuf, Fault)>> = Mutex::new(Vec::new());

    /// Does what a test has asked for at this point, for a file under its folder.
    pub(crate) fn at(point: &str, path: &Path) -> io::Result<()> {
        let fault = |(at, folder, fault): &(&'static str, PathBuf, Fault)| {
            (*at == point && path.starts_with(folder)).then(|| Arc::clone(fault))
        };
        let asked = FAULTS.lock().iter().rev().find_map(fault);
        asked.map_or(Ok(()), |fault| fault(path))
    }

    /// From now on this is done at the point, for files under the folder.
    pub(crate) fn set(
        point: &'static str,
        folder: &Path,
        fault: impl Fn(&Path) -> io::Result<()> + Send + Sync + 'static,
    ) {
        FAULTS.lock().push((point, folder.to_owned(), Arc::new(fault)));
    }
}
