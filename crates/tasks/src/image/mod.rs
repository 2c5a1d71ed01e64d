//! From an image file's bytes to the levels a graph takes.
//!
//! [`decode`] makes RGB levels of a file, within limits; [`prepare`] fits them to the graph's size
//! and order; [`spec`] reads from the model's files what that size and order are. Pixels come out as
//! Pillow's `Image.open(...).convert("RGB")` and `Image.resize` give them, since that is what models
//! are trained and tested with: alpha is dropped and not blended, 16-bit levels become 8-bit, and
//! the orientation in EXIF is not applied.

mod convolve;
pub(crate) mod decode;
mod jpeg;
pub(crate) mod prepare;
mod resize;
pub(crate) mod spec;
mod webp;
