//! Fits RGB levels to a graph: crops, resizes, and orders them.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{CropBox, PixelType, ResizeOptions, Resizer, SrcCropping};
use image::RgbImage;

use super::spec::{Channels, Fit, ImageSpec, Layout};
use crate::TaskError;

/// The levels of one image in the order of the graph's input.
pub(crate) fn prepare(spec: &ImageSpec, image: &RgbImage) -> Result<Vec<u8>, TaskError> {
    // Neither can fail for an image that was decoded; if one did, the image would be to blame.
    let broken = |_| TaskError::BrokenImage { format: "decoded" };
    let source =
        ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3).map_err(|_| broken(()))?;
    let mut fitted = Image::new(spec.width, spec.height, PixelType::U8x3);
    let mut options = ResizeOptions::new().resize_alg(spec.resize).use_alpha(false);
    options.cropping = SrcCropping::Crop(region(spec, image.width(), image.height()));
    Resizer::new().resize(&source, &mut fitted, &options).map_err(|_| broken(()))?;
    Ok(order(spec, fitted.into_vec()))
}

/// The part of the source that the graph sees. Cropping the source and resizing that part alone gives
/// the levels of resizing the whole and cropping the result, since the filter still reads the
/// pixels around the crop, and costs less.
fn region(spec: &ImageSpec, width: u32, height: u32) -> CropBox {
    let (width, height) = (f64::from(width), f64::from(height));
    let (resized_width, resized_height) = match spec.fit {
        Fit::Stretch { width, height } => (f64::from(width), f64::from(height)),
        Fit::ShortestEdge(edge) => {
            let edge = f64::from(edge);
            // The longer edge is cut to whole pixels, as Hugging Face's processors do.
            if width <= height {
                (edge, (edge * height / width).floor())
            } else {
                ((edge * width / height).floor(), edge)
            }
        }
    };
    let axis = |source: f64, resized: f64, wanted: u32| {
        let wanted = f64::from(wanted).min(resized);
        let offset = ((resized - wanted) / 2.0).floor();
        let start = offset * source / resized;
        (start, (wanted * source / resized).min(source - start))
    };
    let (left, width) = axis(width, resized_width, spec.width);
    let (top, height) = axis(height, resized_height, spec.height);
    CropBox { left, top, width, height }
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
