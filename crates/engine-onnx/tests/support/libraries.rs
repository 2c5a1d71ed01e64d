//! Libraries that are not what they should be.

use std::path::{Path, PathBuf};
use std::process::Command;

use halny_engine::EngineError;
use halny_engine_onnx::{OnnxEngine, Options, library};

/// Why the engine refuses a library; the text has to say what to do about it.
pub(crate) fn refusal(path: &Path) -> String {
    let options = Options { library: Some(path.to_path_buf()), ..Options::default() };
    match OnnxEngine::open(options) {
        Err(EngineError::Library(why)) => {
            let wanted = format!("1.{} or newer", library::OLDEST_MINOR);
            let told = [wanted.as_str(), "make setup", "pip install onnxruntime==", library::VARIABLE];
            assert!(told.iter().all(|part| why.contains(part)), "{why}");
            why
        }
        other => panic!("{} was not refused: {other:?}", path.display()),
    }
}

/// A shared library made of C source. A machine that links Rust programs has `cc`.
pub(crate) fn compiled(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (from, to) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&from, source).unwrap();
    assert!(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&to, &from]).status().unwrap().success());
    to
}

/// The source of a library that says it is ONNX Runtime of some version, and has no API to give.
pub(crate) fn pretender(version: &str) -> String {
    format!(
        "static const void *api(unsigned v) {{ return 0; }} static const char *version(void) {{ return {version}; }}\n\
         struct base {{ const void *(*api)(unsigned); const char *(*version)(void); }};\n\
         static struct base base = {{ api, version }}; struct base *OrtGetApiBase(void) {{ return &base; }}\n"
    )
}
