//! Promises about images: which levels the graph gets, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;

use std::io::Cursor;

use fixture::port;
use half::f16;
use halny_engine::{ElementType, Signature};
use halny_tasks::{Task, TaskError};
use halny_types::project::TaskKind;
use halny_types::{Blame, Fault};
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, RgbImage, Rgba};
use proptest::prelude::*;
use serde_json::{Value, json};

const FILTERS: [&str; 4] = ["nearest", "bilinear", "bicubic", "lanczos"];

fn open_files(files: &[(&str, &Value)], element: ElementType, dims: &[i64]) -> Result<Task, TaskError> {
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in files {
        std::fs::write(folder.path().join(file), content.to_string()).unwrap();
    }
    let signature = Signature {
        inputs: vec![port("image", element, dims)],
        outputs: vec![port("scores", ElementType::F32, &[-1, 2])],
    };
    Task::open(TaskKind::ClassifyImage, folder.path(), &signature, None)
}

fn open(section: Value, element: ElementType, dims: &[i64]) -> Result<Task, TaskError> {
    open_files(&[("halny-model.json", &json!({"image": section, "labels": ["no", "yes"]}))], element, dims)
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Smooth and not symmetric, so that a swap of axes or channels shows.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, ((x * y) % 200) as u8])
    })
}

/// What the graph gets of one image, as singles.
fn levels(task: &Task, bytes: &[u8]) -> Vec<f32> {
    let item = task.decode_image(bytes).unwrap();
    let mut collator = task.collator();
    // Among others, so that a wrong place in the batch shows.
    collator.collate(&[&item, &item, &item]).unwrap();
    let view = collator.inputs()[0];
    let all: Vec<f32> = match view.element {
        ElementType::F32 => view.elements::<f32>().unwrap().to_vec(),
        ElementType::F16 => view.elements::<f16>().unwrap().iter().map(|x| x.to_f32()).collect(),
        _ => view.bytes.iter().map(|x| f32::from(*x)).collect(),
    };
    let one = all.len() / 3;
    assert_eq!(all[..one], all[one..2 * one]);
    assert_eq!(all[..one], all[2 * one..]);
    all[..one].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_image_of_the_right_size_is_scaled_and_ordered_as_the_formula_says(
        (width, height, pixels) in (1u32..24, 1u32..24).prop_flat_map(|(width, height)| {
            let pixels = prop::collection::vec(any::<u8>(), (width * height * 3) as usize);
            (Just(width), Just(height), pixels)
        }),
        nchw in any::<bool>(),
        bgr in any::<bool>(),
        element in prop::sample::select(vec![ElementType::F32, ElementType::F16, ElementType::U8]),
        resize in prop::sample::select(FILTERS.to_vec()),
        scale in prop::sample::select(vec![1.0f32, 1.0 / 255.0]),
    ) {
        let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
        let (layout, channels) = (if nchw { "nchw" } else { "nhwc" }, if bgr { "bgr" } else { "rgb" });
        let mut section = json!({"layout": layout, "channels": channels, "resize": resize});
        if element != ElementType::U8 {
            section["scale"] = json!(scale);
            section["mean"] = json!(mean);
            section["std"] = json!(std);
        }
        let (w, h) = (i64::from(width), i64::from(height));
        let dims = if nchw { [-1, 3, h, w] } else { [-1, h, w, 3] };
        let task = open(section, element, &dims).unwrap();
        let image = RgbImage::from_raw(width, height, pixels).unwrap();
        let got = levels(&task, &encode(&image.clone().into(), ImageFormat::Png));
        for (x, y, pixel) in image.enumerate_pixels() {
            for channel in 0..3usize {
                let (x, y, width, height) = (x as usize, y as usize, width as usize, height as usize);
                let place = if nchw { (channel * height + y) * width + x } else { (y * width + x) * 3 + channel };
                let level = f32::from(pixel.0[if bgr { 2 - channel } else { channel }]);
                let wanted = if element == ElementType::U8 { level } else { (level * scale - mean[channel]) / std[channel] };
                let slack = if element == ElementType::F16 { wanted.abs() / 1024.0 + 1e-3 } else { wanted.abs() * 1e-6 + 1e-5 };
                prop_assert!((got[place] - wanted).abs() <= slack, "{} is not {wanted}", got[place]);
            }
        }
    }

    #[test]
    fn cropping_first_gives_what_cropping_last_gives(
        (width, height) in (20u32..120, 20u32..120),
        (crop, edge) in (4i64..20).prop_flat_map(|crop| (Just(crop), crop..40)),
        resize in prop::sample::select(FILTERS.to_vec()),
        mode in prop::sample::select(vec!["center-crop", "shortest-edge-crop"]),
    ) {
        let bytes = encode(&picture(width, height).into(), ImageFormat::Png);
        let (w, h) = match mode {
            "center-crop" => (edge, edge),
            _ if width <= height => (edge, edge * i64::from(height) / i64::from(width)),
            _ => (edge * i64::from(width) / i64::from(height), edge),
        };
        let whole = open(json!({"resize": resize}), ElementType::F32, &[-1, h, w, 3]).unwrap();
        let cropped = open(json!({"resize": resize, "mode": mode, "resize_to": edge}), ElementType::F32, &[-1, crop, crop, 3]).unwrap();
        let (whole, cropped) = (levels(&whole, &bytes), levels(&cropped, &bytes));
        let (left, top) = ((w - crop) / 2, (h - crop) / 2);
        for (i, level) in cropped.iter().enumerate() {
            let (i, crop) = (i as i64, crop);
            let (x, y, channel) = (i / 3 % crop + left, i / 3 / crop + top, i % 3);
            let other = whole[((y * w + x) * 3 + channel) as usize];
            prop_assert!(*level == other, "{level} is not {other} at {x}, {y}");
        }
    }

    #[test]
    fn one_colour_stays_that_colour_at_any_size(
        (width, height) in (1u32..400, 1u32..400),
        (w, h) in (1i64..60, 1i64..60),
        colour in any::<[u8; 3]>(),
        resize in prop::sample::select(FILTERS.to_vec()),
    ) {
        let task = open(json!({"resize": resize, "layout": "nhwc"}), ElementType::U8, &[-1, h, w, 3]).unwrap();
        let image = RgbImage::from_pixel(width, height, image::Rgb(colour));
        let got = levels(&task, &encode(&image.into(), ImageFormat::Png));
        prop_assert!(got.chunks(3).all(|pixel| pixel == colour.map(f32::from)), "{got:?} is not {colour:?}");
    }
}

/// What Pillow 13.0 makes of `speckled` images, as FNV-1a of the levels, filter by filter:
///
/// ```python
/// y, x, c = np.mgrid[:height, :width, :3]
/// levels = ((x * 29 + y * 57 + c * 101) * (x + 5 * y + 3) >> 3) & 255
/// hash = 0xCBF29CE484222325
/// for level in Image.fromarray(levels.astype(np.uint8)).resize((w, h), filter).tobytes():
///     hash = (hash ^ level) * 0x100000001B3 % 2**64
/// ```
#[test]
fn resized_levels_are_those_of_pillow() {
    fn speckled(width: u32, height: u32) -> RgbImage {
        let level = |x, y, c| (((x * 29 + y * 57 + c * 101) * (x + 5 * y + 3)) >> 3) as u8;
        RgbImage::from_fn(width, height, |x, y| image::Rgb([0u32, 1, 2].map(|c| level(x, y, c))))
    }
    let fnv = |levels: &[f32]| {
        levels
            .iter()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, level| (hash ^ *level as u64).wrapping_mul(0x100_0000_01B3))
    };
    // Smaller, larger (where "nearest" depends on how places are added up), smaller with the pass down
    // first, one side kept, one side larger and the other smaller.
    #[rustfmt::skip]
    let table = [
        ((64, 48), (10, 7), [0x5D26163BE1A23AC7, 0x73952B517AD44415, 0x775EEA12F7C7FC6E, 0x4308126CE227ED06]),
        ((13, 12), (40, 31), [0x8EECD5BA9640FCCF, 0xF810D37EBFC19510, 0x3C52333A413A7AD7, 0x7D37B97D0BEDBABD]),
        ((37, 90), (30, 11), [0x1268FFFB1ED96EB8, 0xA549CEDC3BFBB79E, 0x4B3AE54C7B56730F, 0xD9E60EB1F1122954]),
        ((31, 20), (31, 9), [0x4792F9D78FE92F88, 0xAA5F269AD78F8C46, 0x489A78811A8F23C9, 0x8F0662672D2FD27C]),
        ((31, 20), (12, 20), [0xEF41D06A000804AB, 0x96A8496A70979B34, 0xF2B2C6FF87F4C81C, 0xCFBC230FC678B27F]),
        ((300, 5), (7, 9), [0xFFD7E9561578B978, 0xF5CD68A269C69317, 0x3AAEC4DAF563D567, 0xB93EC7D2DCBE2097]),
        ((1, 1), (3, 2), [0x5E4FB7E3995328E1, 0x5E4FB7E3995328E1, 0x5E4FB7E3995328E1, 0x5E4FB7E3995328E1]),
    ];
    for ((width, height), (w, h), hashes) in table {
        let bytes = encode(&speckled(width, height).into(), ImageFormat::Png);
        for (resize, hash) in FILTERS.into_iter().zip(hashes) {
            let task = open(json!({"resize": resize}), ElementType::U8, &[-1, h, w, 3]).unwrap();
            assert_eq!(fnv(&levels(&task, &bytes)), hash, "{width} x {height} to {w} x {h}, {resize}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn damaged_files_never_bring_the_process_down(
        format in prop::sample::select(vec![ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        keep in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
        let mut bytes = encode(&picture(33, 17).into(), format);
        for (place, value) in &damage {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Err(error) = task.decode_image(&bytes) {
            prop_assert!(matches!(error.fault(), Fault::Caller | Fault::TooLarge | Fault::Unsupported), "{error}");
        }
    }

    #[test]
    fn random_bytes_behind_a_signature_never_bring_the_process_down(
        head in prop::sample::select(vec![&b"\xFF\xD8\xFF"[..], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8L", b""]),
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
        prop_assert!(task.decode_image(&[head, &tail].concat()).is_err());
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let bytes = encode(&picture(64, 48).into(), format);
        assert!(task.decode_image(&bytes).is_ok());
        // Up to the last pixels: what is behind them (the end of a PNG, padding) need not be there.
        for length in 0..bytes.len() - 16 {
            let error =
                task.decode_image(&bytes[..length]).map(|_| ()).expect_err(&format!("{format:?} of {length} bytes"));
            assert_eq!(error.fault(), Fault::Caller, "{error}");
        }
    }
}

#[test]
fn an_image_of_65000_pixels_a_side_in_a_kilobyte_is_refused_before_decoding() {
    let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
    let tiny: DynamicImage = picture(16, 16).into();
    let claim = |format, places: [usize; 2], width: &[u8], height: &[u8]| {
        let mut bytes = encode(&tiny, format);
        for (place, side) in places.into_iter().zip([width, height]) {
            bytes[place..place + side.len()].copy_from_slice(side);
        }
        assert!(bytes.len() < 1024, "{}", bytes.len());
        task.decode_image(&bytes).map(|_| ()).unwrap_err()
    };
    let jpeg = encode(&tiny, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    let side = 65_000u32.to_be_bytes();
    for error in [
        claim(ImageFormat::Png, [16, 20], &side, &side),
        claim(ImageFormat::Jpeg, [frame + 7, frame + 5], &side[2..], &side[2..]),
        // One side is within its limit, the pixels are not: 16,000 x 16,000.
        claim(ImageFormat::Png, [16, 20], &16_000u32.to_be_bytes(), &16_000u32.to_be_bytes()),
        // A lossless WebP packs both sides less 1 into 28 bits: 16,383 x 16,383.
        claim(ImageFormat::WebP, [21, 23], &[0xFE, 0xBF], &[0xFF, 0x0F]),
    ] {
        assert!(matches!(error, TaskError::ImageTooLarge { .. }), "{error}");
        assert_eq!(error.fault(), Fault::TooLarge);
    }
}

#[test]
fn a_progressive_file_of_a_thousand_scans_is_refused() {
    let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
    let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xC2, 0, 17, 8, 0x10, 0x00, 0x10, 0x00, 3];
    bytes.extend([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    for _ in 0..1_000 {
        bytes.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0x55]);
    }
    bytes.extend([0xFF, 0xD9]);
    let error = task.decode_image(&bytes).map(|_| ()).unwrap_err();
    assert!(matches!(error, TaskError::ImageTooLarge { width: 4096, .. }), "{error}");
}

#[test]
fn a_frame_larger_than_its_canvas_is_refused_before_decoding() {
    let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
    let chunk = |name: &[u8], payload: &[u8]| [name, &(payload.len() as u32).to_le_bytes(), payload].concat();
    let frame = chunk(b"VP8 ", &[0, 0, 0, 0x9D, 0x01, 0x2A, 0xFF, 0x3F, 0xFF, 0x3F]);
    let animation = chunk(b"ANMF", &[&[0; 16][..], &frame].concat());
    for inner in [frame, animation] {
        let canvas = chunk(b"VP8X", &[0; 10]);
        let file = chunk(b"RIFF", &[b"WEBP", &canvas[..], &inner].concat());
        let error = task.decode_image(&file).map(|_| ()).unwrap_err();
        assert!(matches!(error, TaskError::ImageTooLarge { width: 16_383, .. }), "{error}");
    }
}

#[test]
fn other_formats_are_refused_by_content() {
    let task = open(json!({}), ElementType::U8, &[-1, 8, 8, 3]).unwrap();
    for bytes in [&b""[..], b"GIF89a", b"<svg></svg>", b"%PDF-1.4", b"BM"] {
        assert!(matches!(task.decode_image(bytes), Err(TaskError::NoImage)));
    }
}

#[test]
fn every_kind_of_level_becomes_rgb_and_alpha_is_dropped() {
    let task = open(json!({}), ElementType::U8, &[-1, 2, 2, 3]).unwrap();
    let is = |image: DynamicImage, wanted: [f32; 3]| {
        let got = levels(&task, &encode(&image, ImageFormat::Png));
        assert!(got.chunks(3).all(|pixel| pixel == wanted), "{got:?}");
    };
    is(ImageBuffer::from_pixel(2, 2, Rgba([10u8, 20, 30, 0])).into(), [10.0, 20.0, 30.0]);
    is(ImageBuffer::from_pixel(2, 2, Luma([77u8])).into(), [77.0; 3]);
    is(ImageBuffer::from_pixel(2, 2, image::LumaA([78u8, 3])).into(), [78.0; 3]);
    is(ImageBuffer::from_pixel(2, 2, image::Rgb([257u16 * 5, 257 * 6, 257 * 7])).into(), [5.0, 6.0, 7.0]);
    is(ImageBuffer::from_pixel(2, 2, Luma([257u16 * 9])).into(), [9.0; 3]);
}

#[test]
fn hugging_face_files_are_followed_or_refused_by_field() {
    let labels = json!({"id2label": {"0": "cat", "1": "dog"}});
    let open = |processor: Value| {
        open_files(
            &[("preprocessor_config.json", &processor), ("config.json", &labels)],
            ElementType::F32,
            &[-1, 3, -1, -1],
        )
    };
    let vit = json!({
        "do_resize": true, "size": {"height": 4, "width": 6}, "resample": 2, "do_rescale": true,
        "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "image_processor_type": "ViTImageProcessor", "do_convert_rgb": null,
        "do_center_crop": false, "device": null
    });
    let task = open(vit.clone()).unwrap();
    assert_eq!(task.labels(), ["cat", "dog"]);
    let white = encode(&RgbImage::from_pixel(9, 9, image::Rgb([255; 3])).into(), ImageFormat::Jpeg);
    let got = levels(&task, &white);
    assert_eq!(got.len(), 4 * 6 * 3);
    assert!(got.iter().all(|level| (level - 1.0).abs() < 1e-5), "{got:?}");

    let mut clip = vit.clone();
    clip["size"] = json!({"shortest_edge": 5});
    clip["do_center_crop"] = json!(true);
    clip["crop_size"] = json!({"height": 4, "width": 4});
    assert_eq!(levels(&open(clip).unwrap(), &white).len(), 4 * 4 * 3);

    for (field, value) in
        [("crop_pct", json!(0.875)), ("resample", json!(9)), ("do_pad", json!(true)), ("do_resize", json!(false))]
    {
        let mut odd = vit.clone();
        odd[field] = value;
        let error = open(odd).unwrap_err().to_string();
        assert!(error.starts_with("preprocessor_config.json: "), "{error}");
        assert!(error.contains("halny-model.json") || error.contains(field), "{error}");
    }
}

#[test]
fn sections_that_contradict_the_graph_or_themselves_are_refused() {
    let nhwc = [-1, 8, 8, 3];
    for (section, dims, says) in [
        (json!({"width": 9}), &nhwc[..], "`width` is 9"),
        (json!({"hight": 8}), &nhwc, "hight"),
        (json!({"layout": "nchw"}), &nhwc, "3 channels"),
        (json!({}), &[-1, 3, 8, 3], "layout"),
        (json!({}), &[-1, -1, -1, 3], "width"),
        (json!({"std": [1.0, 0.0, 1.0]}), &nhwc, "std"),
        (json!({"mode": "center-crop", "resize_to": 7}), &nhwc, "resize_to"),
        (json!({"resize_to": 16}), &nhwc, "stretch"),
        (json!({}), &[4, 8, 8, 3], "batch"),
        (json!({}), &[-1, 8, 8], "shape"),
    ] {
        let error = open(section, ElementType::F32, dims).unwrap_err().to_string();
        assert!(error.contains(says), "{error} does not say {says}");
    }
    let error = open(json!({"scale": 0.5}), ElementType::U8, &nhwc).unwrap_err().to_string();
    assert!(error.contains("UINT8"), "{error}");
    let error = open_files(&[], ElementType::F32, &nhwc).unwrap_err().to_string();
    assert!(error.contains("preprocessor_config.json"), "{error}");
}
