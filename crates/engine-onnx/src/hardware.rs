//! What this machine has, read from the system's files and from NVIDIA's management library.

use std::path::{Path, PathBuf};

use nvml_wrapper::Nvml;
use sha2::{Digest, Sha256};

/// A short digest of the processor's model and instruction sets: two machines with the same digest
/// can use each other's optimised graphs.
pub(crate) fn processor_fingerprint() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    fingerprint_of(&text)
}

fn fingerprint_of(cpuinfo: &str) -> String {
    const TELLING: [&str; 7] = ["vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "isa"];
    let mut digest = Sha256::new();
    digest.update(std::env::consts::ARCH);
    for name in TELLING {
        let line = cpuinfo.lines().find(|line| line.split(':').next().map(str::trim) == Some(name));
        digest.update(line.unwrap_or_default());
        digest.update([0]);
    }
    hex(&digest.finalize()[..8])
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of memory this process has resident, or 0 where the system does not tell.
pub(crate) fn resident_bytes() -> u64 {
    /// Linux counts in pages, which `statm` does not name; `smaps_rollup` and `status` count in KiB.
    const LINE: &str = "VmRSS:";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = |line: &str| line.strip_prefix(LINE)?.split_whitespace().next()?.parse::<u64>().ok();
    status.lines().find_map(kibibytes).unwrap_or(0) * 1024
}

/// Whether the loader would find the CUDA driver, by where it looks.
pub(crate) fn has_cuda_driver() -> bool {
    const FILE: &str = "libcuda.so.1";
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let fixed = ["/lib64", "/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let mut folders = std::env::split_paths(&listed).chain(fixed.iter().map(PathBuf::from));
    folders.any(|folder| folder.join(FILE).exists()) || loader_cache_names(Path::new("/etc/ld.so.cache"), FILE)
}

fn loader_cache_names(cache: &Path, file: &str) -> bool {
    let bytes = std::fs::read(cache).unwrap_or_default();
    bytes.windows(file.len()).any(|window| window == file.as_bytes())
}

/// NVIDIA's management library, which tells of devices without making a CUDA context on them.
pub(crate) struct Gpus(Nvml);

impl Gpus {
    /// `None` where there is no driver.
    pub(crate) fn open() -> Option<Gpus> {
        Nvml::init().ok().map(Gpus)
    }

    /// How many devices CUDA would number in this process.
    pub(crate) fn count(&self) -> Option<u32> {
        match visible_devices() {
            Some(names) => u32::try_from(names.len()).ok(),
            None => self.0.device_count().ok(),
        }
    }

    /// Bytes in use on a device, by all processes together: inside a container the driver does not
    /// tell processes apart.
    pub(crate) fn used_bytes(&self, number: u32) -> Option<u64> {
        let device = match visible_devices() {
            None => self.0.device_by_index(number),
            Some(names) => {
                let name = names.get(usize::try_from(number).ok()?)?;
                match name.parse() {
                    Ok(index) => self.0.device_by_index(index),
                    Err(_) => self.0.device_by_uuid(name.as_str()),
                }
            }
        };
        Some(device.ok()?.memory_info().ok()?.used)
    }
}

/// The devices that `CUDA_VISIBLE_DEVICES` leaves, by index or UUID; `None` where it is not set.
fn visible_devices() -> Option<Vec<String>> {
    std::env::var("CUDA_VISIBLE_DEVICES").ok().map(|text| visible_in(&text))
}

/// CUDA stops at the first entry that names no device.
fn visible_in(text: &str) -> Vec<String> {
    let names_device =
        |name: &&str| name.parse::<u32>().is_ok() || name.starts_with("GPU-") || name.starts_with("MIG-");
    text.split(',').map(str::trim).take_while(names_device).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_fingerprint_follows_the_instruction_sets_and_nothing_that_changes_by_itself() {
        let machine = |flags: &str, mhz: &str| {
            format!("vendor_id\t: X\nmodel name\t: Y\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n")
        };
        let with = |flags: &str, mhz: &str| fingerprint_of(&machine(flags, mhz));
        assert_eq!(with("avx2 fma", "2400.1"), with("avx2 fma", "3100.7"));
        assert_ne!(with("avx2 fma", "2400.1"), with("avx2 fma avx512f", "2400.1"));
    }

    #[test]
    fn resident_memory_follows_what_is_touched() {
        let before = resident_bytes();
        let touched = vec![1u8; 64 << 20];
        assert!(resident_bytes() >= before + (48 << 20), "{before} {}", touched.len());
    }

    #[test]
    fn visible_devices_end_at_the_first_that_is_none() {
        assert_eq!(visible_in("1, GPU-ab"), ["1", "GPU-ab"]);
        assert_eq!(visible_in("0,-1,1"), ["0"]);
        assert!(visible_in("").is_empty());
    }

    #[test]
    fn the_loader_cache_is_searched_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        std::fs::write(&cache, b"\0libc.so.6\0libcuda.so.1\0").unwrap();
        assert!(loader_cache_names(&cache, "libcuda.so.1"));
        assert!(!loader_cache_names(&cache, "libcudnn.so.9"));
    }
}
