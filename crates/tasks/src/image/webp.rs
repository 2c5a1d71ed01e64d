//! The sizes that the lossy frames inside a WebP file claim (RFC 9649, RFC 6386).
//!
//! In an extended file each frame has a size of its own beside the canvas's. The decoder makes room for a
//! frame before it compares the two, so that a canvas of one pixel could still take all memory.

/// Calls with the width and height of each lossy frame, until one is refused.
pub(super) fn lossy_frames<E>(bytes: &[u8], admit: &impl Fn((u32, u32)) -> Result<(), E>) -> Result<(), E> {
    // Behind the file's own header: "RIFF", the size, "WEBP".
    chunks(bytes.get(12..).unwrap_or(&[]), true, admit)
}

fn chunks<E>(bytes: &[u8], top: bool, admit: &impl Fn((u32, u32)) -> Result<(), E>) -> Result<(), E> {
    let mut rest = bytes;
    while let Some(([name @ .., s0, s1, s2, s3], behind)) = rest.split_first_chunk::<8>() {
        let size = usize::try_from(u32::from_le_bytes([*s0, *s1, *s2, *s3])).unwrap_or(usize::MAX);
        let payload = behind.get(..size).unwrap_or(behind);
        match name {
            b"VP8 " => {
                if let [_, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..] = payload {
                    // The upper two bits are a scale for display.
                    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
                    admit((side(*w0, *w1), side(*h0, *h1)))?;
                }
            }
            // A frame of an animation: 16 bytes, then chunks again.
            b"ANMF" if top => chunks(payload.get(16..).unwrap_or(&[]), false, admit)?,
            _ => {}
        }
        // Chunks begin at even places.
        rest = behind.get(size.saturating_add(size & 1)..).unwrap_or(&[]);
    }
    Ok(())
}
