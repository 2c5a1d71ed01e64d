//! Finding `libonnxruntime.so`, and loading it once without ever taking the process down.

use std::ffi::CStr;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use halny_engine::EngineError;
use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::logging::LogLevel;
use parking_lot::Mutex;

/// The environment variable that names the library's path.
pub const VARIABLE: &str = "HALNY_ONNXRUNTIME";

/// The oldest minor version (of 1.x) whose C API this crate is built for: `ort`'s `api-NN` feature.
pub const OLDEST_MINOR: u32 = ort::MINOR_VERSION;

/// The version that Halny is tested with and that `make setup` installs.
pub const TESTED: &str = "1.32.0";

/// The one library of this process: `ort` keeps it in a static, so a second cannot be loaded.
static LOADED: Mutex<Option<Library>> = Mutex::new(None);

/// ONNX Runtime, loaded.
#[derive(Clone)]
pub struct Library {
    path: Arc<Path>,
    version: Arc<str>,
    environment: Environment,
}

impl Library {
    /// Where it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `1.32.0`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Finds and loads the library: `named`, else `$HALNY_ONNXRUNTIME`, else the newest under
/// `<cache>/onnxruntime`.
///
/// # Errors
/// [`EngineError::Library`]. A path that was named and does not serve is never replaced by another.
pub fn open(named: Option<&Path>, cache: Option<&Path>) -> Result<Library, EngineError> {
    let path = find(named, cache)?;
    let path = std::fs::canonicalize(&path)
        .map_err(|error| refusal(&format!("there is no ONNX Runtime library at {}: {error}", path.display())))?;
    if !path.is_file() {
        return Err(refusal(&format!("{} is a folder, not an ONNX Runtime library", path.display())));
    }
    let mut loaded = LOADED.lock();
    match &*loaded {
        Some(library) if *library.path == *path => Ok(library.clone()),
        Some(library) => Err(EngineError::Library(format!(
            "this process already uses the ONNX Runtime library at {}; restart it to use {}",
            library.path.display(),
            path.display()
        ))),
        None => {
            let library = load(&path)?;
            *loaded = Some(library.clone());
            Ok(library)
        }
    }
}

fn find(named: Option<&Path>, cache: Option<&Path>) -> Result<PathBuf, EngineError> {
    let variable = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = named.map(Path::to_path_buf).or(variable) {
        return Ok(path);
    }
    let newest = cache.and_then(|cache| newest_below(&cache.join("onnxruntime")));
    newest.ok_or_else(|| refusal("no ONNX Runtime library was found"))
}

/// The library in the folder of the highest version, among `<folder>/<version>/libonnxruntime.so`.
fn newest_below(folder: &Path) -> Option<PathBuf> {
    let version_of = |path: &Path| parse_version(path.file_name()?.to_str()?);
    std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((version_of(&path)?, path.join("libonnxruntime.so"))))
        .filter(|(version, path)| version.0 == 1 && version.1 >= OLDEST_MINOR && path.is_file())
        .max_by_key(|(version, _)| *version)
        .map(|(_, path)| path)
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(str::parse::<u32>);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(version)
}

/// Loads the library at an absolute path.
///
/// `ort` gives an error for a file that is no library, is another library, or is too old, but asserts
/// what a library of the right name could still get wrong (a null API); hence `catch_unwind`.
fn load(path: &Path) -> Result<Library, EngineError> {
    let loading = catch_unwind(AssertUnwindSafe(|| -> Result<(Environment, String), EngineError> {
        let builder = ort::init_from(path).map_err(|error| explain(path, &error))?;
        let environment = builder
            .with_name("halny")
            .with_telemetry(false)
            .with_logger(Arc::new(|level, category, _, _, message| log(level, category, message)))
            .build()
            .map_err(|error| refusal(&format!("ONNX Runtime at {} does not start: {error}", path.display())))?;
        let version = version_in_use(path).unwrap_or_else(|| format!("1.{OLDEST_MINOR} or newer"));
        Ok((environment, version))
    }));
    let broken = || refusal(&format!("{} does not behave as ONNX Runtime does", path.display()));
    let (environment, version) = loading.map_err(|_| broken())??;
    Ok(Library { path: path.into(), version: version.into(), environment })
}

/// The version of a library that `ort` has loaded and found to be ONNX Runtime; `ort` reads it the same
/// way, and keeps it to itself unless it is too old.
#[expect(unsafe_code, reason = "only the library itself tells its version, through a C function")]
fn version_in_use(path: &Path) -> Option<String> {
    type GetBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: the library is loaded already, so opening it runs no code of it; the function's type is
    // that of ONNX Runtime's C header, and what it points at lives as long as the library, which `ort`
    // never unloads.
    unsafe {
        let library = libloading::Library::new(path).ok()?;
        let get_base: libloading::Symbol<'_, GetBase> = library.get(b"OrtGetApiBase").ok()?;
        let base = get_base().as_ref()?;
        let version = (base.GetVersionString)();
        if version.is_null() { None } else { Some(CStr::from_ptr(version).to_str().ok()?.to_owned()) }
    }
}

fn explain(path: &Path, error: &LoadDynamicError) -> EngineError {
    let path = path.display();
    match error {
        LoadDynamicError::Dlopen { error, .. } => {
            refusal(&format!("{path} cannot be loaded as a library ({})", cause_of(error)))
        }
        LoadDynamicError::MissingApi { .. } => refusal(&format!("{path} is a library, but not ONNX Runtime")),
        LoadDynamicError::BadVersion { version_str, .. } => {
            refusal(&format!("ONNX Runtime {version_str} at {path} is too old"))
        }
        LoadDynamicError::InvalidVersionString => refusal(&format!("ONNX Runtime at {path} does not tell its version")),
    }
}

/// What the loader said, which stands in the cause of some errors and in the text of others.
fn cause_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// A refusal that ends with the version wanted and how to get it.
fn refusal(what: &str) -> EngineError {
    EngineError::Library(format!(
        "{what}; ONNX Runtime 1.{OLDEST_MINOR} or newer is wanted: run `make setup`, or `pip install onnxruntime=={TESTED}` \
         (`onnxruntime-gpu` for CUDA) and point `onnxruntime.library` of the project file, or ${VARIABLE}, at its \
         libonnxruntime.so"
    ))
}

/// Passes the library's log on, more quietly than it speaks: what it calls an error comes back as one
/// from the call too, and a client's bad ids are such; its warnings are for who tunes a graph.
pub(crate) fn log(level: LogLevel, category: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, "{message}"),
        LogLevel::Error | LogLevel::Warning => tracing::debug!(target: "onnxruntime", category, "{message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(target: "onnxruntime", category, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_folder_that_is_new_enough_wins() {
        let cache = tempfile::tempdir().unwrap();
        for version in ["1.9.1", "1.32.0", "1.5.0", "1.100.0", "0.99.0", "notes", "1.32"] {
            let folder = cache.path().join(version);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("libonnxruntime.so"), b"").unwrap();
        }
        std::fs::create_dir(cache.path().join("1.200.0")).unwrap();
        assert_eq!(newest_below(cache.path()), Some(cache.path().join("1.100.0/libonnxruntime.so")));
        assert_eq!(newest_below(&cache.path().join("absent")), None);
    }
}
