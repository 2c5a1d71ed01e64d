//! Formats that are refused by what they are, never opened and never scanned.
//!
//! A pickle is a program: scanning one for harm has been defeated many times over, so there is no
//! scanner here. Archives are refused with them, since PyTorch's own files are zip archives that
//! hold a pickle, and since nothing that makes up a model here is an archive.

use crate::RegistryError;

/// How many bytes of a file's beginning [`check_head`] wants to see: enough for a tar header.
pub(crate) const HEAD_BYTES: usize = 512;

/// Endings of pickle-family files, and of archives that may hold them.
const REFUSED_ENDINGS: [(&str, &str); 22] = [
    ("bin", "a PyTorch file (.bin, a pickle)"),
    ("pt", "a PyTorch file (.pt, a pickle)"),
    ("pth", "a PyTorch file (.pth, a pickle)"),
    ("ckpt", "a checkpoint (.ckpt, a pickle)"),
    ("pkl", "a pickle"),
    ("pickle", "a pickle"),
    ("dill", "a pickle (dill)"),
    ("joblib", "a pickle (joblib)"),
    ("npy", "a NumPy file, which may hold a pickle"),
    ("npz", "a zip archive (NumPy), which may hold a pickle"),
    ("mar", "a zip archive (TorchServe)"),
    ("nemo", "a tar archive (NeMo)"),
    ("zip", "a zip archive"),
    ("tar", "a tar archive"),
    ("tgz", "a compressed tar archive"),
    ("gz", "a compressed file (gzip)"),
    ("bz2", "a compressed file (bzip2)"),
    ("xz", "a compressed file (xz)"),
    ("zst", "a compressed file (zstd)"),
    ("lz4", "a compressed file (LZ4)"),
    ("7z", "a 7-Zip archive"),
    ("rar", "a RAR archive"),
];

/// Whether the name alone is reason to refuse, and what it says the file is.
pub(crate) fn refused_by_name(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    REFUSED_ENDINGS.iter().find(|(refused, _)| ending.eq_ignore_ascii_case(refused)).map(|(_, format)| *format)
}

/// Whether a file's first bytes are reason to refuse, and what they say the file is.
pub(crate) fn refused_by_head(head: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") || starts(b"PK\x07\x08") {
        return Some("a zip archive, as PyTorch writes around a pickle");
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive");
    }
    if starts(b"\x1f\x8b\x08") {
        return Some("a compressed file (gzip)");
    }
    if starts(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        return Some("a compressed file (bzip2)");
    }
    if starts(b"\xfd7zXZ\0") {
        return Some("a compressed file (xz)");
    }
    if starts(b"\x28\xb5\x2f\xfd") {
        return Some("a compressed file (zstd)");
    }
    if starts(b"7z\xbc\xaf\x27\x1c") {
        return Some("a 7-Zip archive");
    }
    if starts(b"\x93NUMPY") {
        return Some("a NumPy file, which may hold a pickle");
    }
    is_pickle(head).then_some("a pickle")
}

/// Pickle protocols 2 to 5: the PROTO opcode, then an opcode that a pickle can go on with. The
/// third byte keeps raw weights that happen to begin with 80 02 from being refused
/// (one random file in 3 million is). Protocols 0 and 1 have no mark; they are text, which neither
/// the ONNX nor the safetensors nor the JSON check lets pass.
fn is_pickle(head: &[u8]) -> bool {
    matches!(
        head,
        [
            0x80,
            2..=5,
            b'}' | b']'
                | b')'
                | b'('
                | b'c'
                | b'X'
                | b'K'
                | b'J'
                | b'U'
                | b'C'
                | b'N'
                | b'G'
                | b'M'
                | 0x8a
                | 0x8c
                | 0x8f
                | 0x95,
            ..
        ]
    )
}

/// Both rules for one file.
pub(crate) fn check(name: &str, head: &[u8]) -> Result<(), RegistryError> {
    check_name(name)?;
    match refused_by_head(head) {
        Some(format) => Err(RegistryError::RefusedFormat { file: name.to_owned(), format }),
        None => Ok(()),
    }
}

/// The rule on names for one file, before a byte of it is fetched.
pub(crate) fn check_name(name: &str) -> Result<(), RegistryError> {
    match refused_by_name(name) {
        Some(format) => Err(RegistryError::RefusedFormat { file: crate::names::shown(name), format }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pickles_and_archives_are_refused_under_any_name() {
        let mut tar = vec![0_u8; HEAD_BYTES];
        tar[257..262].copy_from_slice(b"ustar");
        let torch_legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
        let heads: [&[u8]; 7] = [
            b"PK\x03\x04rest",
            b"\x80\x04\x95\x00",
            torch_legacy,
            b"\x80\x02}q\x00.",
            b"\x1f\x8b\x08\x00",
            &tar,
            b"\x93NUMPY\x01\x00",
        ];
        for head in heads {
            assert!(check("model.onnx", head).is_err(), "{head:?}");
        }
        for name in ["pytorch_model.bin", "a/B.PT", "x.Pth", "x.pkl", "x.ckpt", "x.joblib", "x.tar.gz"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn honest_beginnings_are_accepted() {
        for head in [&b"\x08\x09\x12\x07pytorch"[..], b"{\"a\":1}", b"", &[0; 512], &[0xff; 512]] {
            check("model.onnx_data", head).unwrap();
        }
    }
}
