//! From an image file's bytes to RGB levels, within limits that are checked before decoding.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use super::{jpeg, webp};
use crate::TaskError;

/// The longest side taken, in pixels.
pub(crate) const MAX_SIDE: u32 = 16_384;
/// The most pixels taken: 192 MB as RGB.
pub(crate) const MAX_PIXELS: u64 = 64_000_000;
/// The most memory that decoding may take: the levels as stored, as RGB, and what the format's decoder
/// holds beside them.
pub(crate) const MAX_BYTES: u64 = 512 << 20;
/// The most pixels a JPEG may go over in all its scans together: 15 scans of the largest image.
/// Encoders make 10 or fewer.
const MAX_SCANNED_PIXELS: u64 = 15 * MAX_PIXELS;

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        _ => "WebP",
    }
}

fn sniff(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(ImageFormat::WebP),
        _ => None,
    }
}

fn too_large((width, height): (u32, u32)) -> TaskError {
    TaskError::ImageTooLarge {
        width,
        height,
        max_side: MAX_SIDE,
        max_megapixels: MAX_PIXELS / 1_000_000,
        max_mebibytes: MAX_BYTES >> 20,
    }
}

/// Checks what a decoder or a header says about an image. `bytes_per_pixel` is what decoding takes.
fn admit((width, height): (u32, u32), bytes_per_pixel: u64) -> Result<(), TaskError> {
    let pixels = u64::from(width) * u64::from(height);
    let fits = width.max(height) <= MAX_SIDE && pixels <= MAX_PIXELS && pixels * bytes_per_pixel <= MAX_BYTES;
    if fits { Ok(()) } else { Err(too_large((width, height))) }
}

/// The RGB levels of a JPEG, PNG or WebP file, told apart by content. Of an animation, the first frame.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, TaskError> {
    let format = sniff(bytes).ok_or(TaskError::NoImage)?;
    let broken = || TaskError::BrokenImage { format: name(format) };
    let mut declared = (0, 0);
    // Bytes a pixel that decoding takes beside the stored and the converted levels.
    let mut working = 0;
    match format {
        ImageFormat::Jpeg => {
            let outline = jpeg::outline(bytes).ok_or_else(broken)?;
            declared = (outline.width, outline.height);
            // A progressive JPEG's coefficients, of 16 bits.
            working = if outline.progressive { 2 * outline.components } else { 0 };
            admit(declared, 3 + working)?;
            if u64::from(outline.width) * u64::from(outline.height) * outline.scans > MAX_SCANNED_PIXELS {
                return Err(too_large(declared));
            }
        }
        ImageFormat::Png => {
            let side = |at: usize| {
                let field = bytes.get(at..at + 4).and_then(|field| <[u8; 4]>::try_from(field).ok());
                field.map(u32::from_be_bytes).ok_or_else(broken)
            };
            declared = (side(16)?, side(20)?);
            admit(declared, 3)?;
        }
        _ => {
            // Planes or RGBA, before they are copied to the result.
            working = 4;
            webp::lossy_frames(bytes, &|size| admit(size, 3 + working))?;
        }
    }

    let refuse = |error: ImageError| match error {
        ImageError::Limits(_) => too_large(declared),
        ImageError::Unsupported(_) => TaskError::UnsupportedImage { format: name(format) },
        _ => broken(),
    };
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(refuse)?;
    let stored = u64::from(decoder.color_type().bytes_per_pixel());
    let converted = if decoder.color_type() == image::ColorType::Rgb8 { 0 } else { 3 };
    admit(decoder.dimensions(), stored + converted + working)?;
    if decoder.dimensions().0 == 0 || decoder.dimensions().1 == 0 {
        return Err(broken());
    }
    Ok(DynamicImage::from_decoder(decoder).map_err(refuse)?.into_rgb8())
}
