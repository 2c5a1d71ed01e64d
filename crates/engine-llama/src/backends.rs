//! llama.cpp's compute libraries: found once, loaded once, for the whole process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use halny_engine::{Device, EngineError};
use llama_cpp_2::llama_backend::{LlamaBackend, load_backends_from_path};
use llama_cpp_2::{LlamaBackendDeviceType, LogOptions, list_llama_ggml_backend_devices, send_logs_to_tracing};
use parking_lot::Mutex;

/// The environment variable that names the folder of the compute libraries (`libggml-cpu-*.so`,
/// `libggml-cuda.so`).
pub const FOLDER_VARIABLE: &str = "HALNY_LLAMA_BACKENDS";

const CUDA_LIBRARY: &str = "libggml-cuda.so";

/// llama.cpp, ready to load models. There is one in a process.
#[derive(Debug)]
pub struct Backend {
    llama: LlamaBackend,
    /// Where its compute libraries are.
    folder: PathBuf,
    /// Creating a context changes the model it is created from, so no two are created at once.
    creating: Mutex<()>,
}

/// A device of llama.cpp's, by our name and its.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) device: Device,
    /// Its place in llama.cpp's own list.
    pub(crate) index: usize,
    pub(crate) description: String,
}

/// The process's backend, loaded by the first who asks.
///
/// # Errors
/// [`EngineError::Library`], the same each time, when no compute library could be loaded.
pub fn backend() -> Result<&'static Backend, EngineError> {
    static BACKEND: OnceLock<Result<Backend, EngineError>> = OnceLock::new();
    BACKEND.get_or_init(open).as_ref().map_err(Clone::clone)
}

fn open() -> Result<Backend, EngineError> {
    send_logs_to_tracing(LogOptions::default());
    let folders = folders();
    let has_libraries = |folder: &&PathBuf| {
        std::fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libggml-cpu"))
        })
    };
    let looked = || folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
    let Some(folder) = folders.iter().find(has_libraries) else {
        return Err(EngineError::Library(format!(
            "llama.cpp's compute libraries (libggml-cpu-*.so) are in none of {}; set {FOLDER_VARIABLE} to their folder",
            looked()
        )));
    };
    if folder.to_str().is_none() {
        return Err(EngineError::Library(format!("the folder {} has a name that is no text", folder.display())));
    }
    load_backends_from_path(folder);
    let llama = LlamaBackend::init().map_err(|error| EngineError::Library(format!("llama.cpp: {error}")))?;
    let backend = Backend { llama, folder: folder.clone(), creating: Mutex::new(()) };
    if !list_llama_ggml_backend_devices().iter().any(|device| device.device_type == LlamaBackendDeviceType::Cpu) {
        return Err(EngineError::Library(format!(
            "none of llama.cpp's compute libraries in {} runs on this processor",
            folder.display()
        )));
    }
    Ok(backend)
}

/// Where the libraries may be, the first that has them counts: where the operator says, beside the
/// program, where a package puts them, where the build left them.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()) {
        return vec![PathBuf::from(folder)];
    }
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent);
    let packaged = beside.and_then(Path::parent).map(|root| root.join("lib/halny"));
    let built = llama_cpp_sys_2::BACKENDS_DIR.map(PathBuf::from);
    beside.map(Path::to_path_buf).into_iter().chain(packaged).chain(built).collect()
}

impl Backend {
    /// The binding's own handle, for tests that compare with it.
    #[must_use]
    pub fn llama(&self) -> &LlamaBackend {
        &self.llama
    }

    pub(crate) fn creating(&self) -> &Mutex<()> {
        &self.creating
    }

    /// The devices that models can be loaded onto, GPUs first.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        self.cuda().into_iter().map(|found| found.device).chain([Device::Cpu]).collect()
    }

    /// The CUDA devices.
    pub(crate) fn cuda(&self) -> Vec<Found> {
        let of_cuda = list_llama_ggml_backend_devices().into_iter().filter(|device| {
            device.backend == "CUDA"
                && matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
        });
        (0..)
            .zip(of_cuda)
            .map(|(number, device)| Found {
                device: Device::Cuda(number),
                index: device.index,
                description: device.description,
            })
            .collect()
    }

    /// Why [`Backend::cuda`] is empty where it is: what is missing, and where it was looked for.
    pub(crate) fn no_cuda(&self) -> String {
        let folder = self.folder.display();
        if self.folder.join(CUDA_LIBRARY).is_file() {
            format!(
                "{CUDA_LIBRARY} in {folder} found no device; it needs NVIDIA's driver (libcuda.so.1), a device that \
                 CUDA_VISIBLE_DEVICES does not hide, libcudart.so.13 and libcublas.so.13"
            )
        } else {
            format!("llama.cpp was built without CUDA: {folder} holds no {CUDA_LIBRARY}")
        }
    }
}
