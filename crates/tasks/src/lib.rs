//! Tasks: from a request's values to tensors, and from tensors back to an answer.
//!
//! An engine runs tensors and knows nothing of texts or images; clients send texts and images and
//! know nothing of tensors. A [`Task`] makes one [`Item`] of each value, on the threads of the CPU
//! pool; a [`Collator`], owned by the device's thread, joins items into the inputs of one run and
//! cuts its outputs into one [`Answer`] an item. Joining is copying and nothing else, so that the
//! device never waits for a tokenizer or a decoder.
//!
//! What is promised:
//!
//! - An item's answer does not depend on its neighbours in the batch or on their padding, as long as
//!   the graph keeps its mask. A graph without a mask gets equal lengths only ([`Item::group`]).
//! - Limits hold before work is done: bytes before tokenising, dimensions before decoding.
//! - A graph or a model's file that the task cannot follow to the letter is refused by
//!   [`Task::open`], which names what it did not understand, and not at the first request.
//!
//! Not pre- and postprocessing nodes inside the graph: they would run on the device's thread, and few
//! published models have them.
//!
//! # `halny-model.json`
//!
//! What no other file of a model says stands in `halny-model.json`; unknown fields are refused.
//!
//! ```json
//! {
//!   "image": {
//!     "width": 224, "height": 224, "layout": "nhwc", "channels": "bgr",
//!     "resize": "bilinear", "mode": "center-crop", "resize_to": 256,
//!     "scale": 1.0, "mean": [104, 117, 123], "std": [1, 1, 1]
//!   },
//!   "labels": ["sfw", "nsfw"],
//!   "scores": "probabilities"
//! }
//! ```
//!
//! `layout` is `nhwc` or `nchw`, `channels` `rgb` (default) or `bgr`, `resize` `nearest`, `bilinear`
//! (default), `bicubic` or `lanczos`, all but the first with Pillow's antialiasing. `mode` is
//! `stretch` (default; to `width` x `height`), `center-crop` (stretch to a square of `resize_to`, cut
//! out the middle) or `shortest-edge-crop` (in proportion until the shorter edge is `resize_to`, cut out the
//! middle). The graph gets `(level * scale - mean) / std` of levels from 0 to 255, mean and std in
//! the order of `channels`; without them, the levels. `scores` says what the graph gives: `logits` (default;
//! softmax is applied, sigmoid for a single label, for `"problem_type": "multi_label_classification"`
//! in `config.json`, and for reranking) or `probabilities` (taken as they are).

mod answer;
mod collate;
mod error;
mod files;
mod image;
mod item;
mod ports;
mod task;
mod text;

pub use answer::{Answer, truncate_dimensions};
pub use collate::Collator;
pub use error::TaskError;
pub use item::Item;
pub use task::{Query, Task};
