//! What the tests of this crate share: the engine, specs, and folders that hold a graph.

use std::path::Path;

use halny_engine::testsuite::cache_folder;
use halny_engine::{Device, LoadSpec, Precision};
use halny_engine_onnx::testgraph::Graph;
use halny_engine_onnx::{OnnxEngine, Options};

/// The engine over the library that `make setup` installs.
pub(crate) fn engine() -> OnnxEngine {
    let options = Options { cache: Some(cache_folder()), ..Options::default() };
    OnnxEngine::open(options).unwrap_or_else(|error| panic!("run make setup: {error}"))
}

/// A folder with one graph in it and room for a cache.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(graph: &Graph) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        graph.write(&folder.path().join("model.onnx"));
        Bench { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The graph on the processor, uncached.
    pub(crate) fn spec(&self) -> LoadSpec {
        LoadSpec {
            graph: self.path().join("model.onnx"),
            device: Device::Cpu,
            precision: Precision::Fp32,
            instances: 1,
            threads: 1,
            cache: None,
            cache_key: "test".to_owned(),
        }
    }

    /// The graph on the processor, with its cache.
    pub(crate) fn cached(&self) -> LoadSpec {
        LoadSpec { cache: Some(self.path().join("cache")), ..self.spec() }
    }
}
