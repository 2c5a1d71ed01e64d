//! What a JPEG file promises, read from its segments before any pixel is decoded (ITU-T T.81, B).
//!
//! The decoder fills what a cut-off file lacks with grey and says nothing; and a file of a few
//! kilobytes can make it go over every pixel thousands of times, once for each scan. Both are seen here.

/// What the segments say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outline {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) components: u64,
    pub(super) progressive: bool,
    /// Passes over the pixels.
    pub(super) scans: u64,
}

/// The outline of a file that has a frame, a scan and an end; `None` of any other.
pub(super) fn outline(bytes: &[u8]) -> Option<Outline> {
    let mut outline = Outline::default();
    // After the start-of-image marker.
    let mut rest = bytes.get(2..)?;
    loop {
        let (marker, after) = next_marker(rest)?;
        rest = after;
        match marker {
            0xD9 => return (outline.scans > 0 && outline.components > 0).then_some(outline),
            // Restart and temporary markers, and start of image, have no payload.
            0x01 | 0xD0..=0xD8 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        let payload = rest.get(2..length)?;
        rest = rest.get(length..)?;
        match marker {
            0xDA => outline.scans += 1,
            // Start of frame, in all its variants; C4, C8 and CC are tables and reserved.
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                outline.progressive = matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE);
                outline.height = u32::from(u16::from_be_bytes([*payload.get(1)?, *payload.get(2)?]));
                outline.width = u32::from(u16::from_be_bytes([*payload.get(3)?, *payload.get(4)?]));
                outline.components = u64::from(*payload.get(5)?);
            }
            _ => {}
        }
    }
}

/// The next marker's code, and what follows it. Pixel data is stepped over: in it, FF is followed by 0.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let place = rest.iter().position(|byte| *byte == 0xFF)?;
        rest = rest.get(place + 1..)?;
        match *rest.first()? {
            0x00 | 0xFF => {}
            marker => return Some((marker, rest.get(1..)?)),
        }
    }
}
