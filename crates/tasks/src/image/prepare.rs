//! Fits RGB levels to a graph: crops, resizes, and orders them.

use image::RgbImage;

use super::resize::{Axis, resize};
use super::spec::{Channels, Fit, ImageSpec, Layout};

/// The levels of one image in the order of the graph's input.
pub(crate) fn prepare(spec: &ImageSpec, image: &RgbImage) -> Vec<u8> {
    let (x, y) = axes(spec, image.width(), image.height());
    order(spec, resize(image, spec.resize, x, y))
}

/// What the sides are resized to, and the middle that the graph sees.
fn axes(spec: &ImageSpec, width: u32, height: u32) -> (Axis, Axis) {
    let (resized_width, resized_height) = match spec.fit {
        Fit::Stretch { width, height } => (width, height),
        Fit::ShortestEdge(edge) => {
            // The longer edge is cut to whole pixels, as Hugging Face's processors do.
            let longer = |long: u32, short: u32| {
                let length = u64::from(edge) * u64::from(long) / u64::from(short);
                u32::try_from(length).unwrap_or(u32::MAX)
            };
            if width <= height { (edge, longer(height, width)) } else { (longer(width, height), edge) }
        }
    };
    let axis = |source: u32, resized: u32, wanted: u32| Axis {
        source,
        resized,
        start: resized.saturating_sub(wanted) / 2,
        wanted,
    };
    (axis(width, resized_width, spec.width), axis(height, resized_height, spec.height))
}

/// Brings `[height, width, rgb]` into the order of the graph's input.
fn order(spec: &ImageSpec, mut levels: Vec<u8>) -> Vec<u8> {
    if spec.channels == Channels::Bgr {
        levels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
    }
    if spec.layout == Layout::Nhwc {
        return levels;
    }
    let pixels = levels.as_chunks::<3>().0;
    let mut planes = Vec::with_capacity(levels.len());
    for channel in 0..3 {
        planes.extend(pixels.iter().map(|pixel| pixel[channel]));
    }
    planes
}
