//! Which model is loaded where: load, warm up, publish, swap and unload without losing a request.
//!
//! [`Residency`] holds the models that are served. A request takes a [`LoadedModel`] and keeps it
//! until it is answered; a model that is replaced or unloaded stops being given out at once, and
//! its threads and memory go when the last request that holds it is done. So a swap needs no
//! pause, no lock on the path of a request, and no retry.
//!
//! Whoever changes what is loaded takes turns: a project is applied, or a model loaded, from reading
//! what the project says to publishing, in a task that ends whether or not the one who asked stays.
//! Unloading takes no turn. It calls off every load of the model that was asked for before.
//!
//! A model is given out only when it is ready: files fetched and checked, graph loaded, every
//! instance run with representative shapes. When loading a new version fails, the old one stays.
//!
//! Not a pool of models behind one mutex (as `Mutex<HashMap<..>>` around sessions): loading takes
//! seconds to minutes, and requests to other models must not notice.

mod error;
mod inference;
mod load;
mod load_encoders;
mod load_writing;
mod model;
mod repacking;
mod residency;
mod runner;
mod state;
mod warm_ups;
mod writing;

pub use error::{LoadCause, LoadError, ResidencyError, RunError};
pub use inference::{Answers, Inference, LoadedProfile};
pub use load::{Engines, Places};
pub use model::{LoadedModel, ProfileCard, Work};
pub use residency::{Applied, Residency};
pub use runner::ModelRunner;
pub use state::{ModelState, ModelStatus};
pub use writing::{Writing, WritingProfile};
