//! What to load, onto what, and what came of it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use halny_types::project::Precision;

use crate::{Instance, Signature};

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// The best device that works for this model, said in the log when chosen.
    Auto,
    /// The machine's processors.
    Cpu,
    /// The CUDA device of this number.
    Cuda(u32),
    /// The CUDA device of this number, through TensorRT.
    TensorRt(u32),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let number = |digits: &str| digits.parse::<u32>().ok();
        match text.split_once(':') {
            None if text == "auto" => Ok(Device::Auto),
            None if text == "cpu" => Ok(Device::Cpu),
            Some(("cuda", digits)) if number(digits).is_some() => Ok(Device::Cuda(number(digits).unwrap_or(0))),
            Some(("tensorrt", digits)) if number(digits).is_some() => Ok(Device::TensorRt(number(digits).unwrap_or(0))),
            _ => Err(format!("{text:?} is not a device; write \"auto\", \"cpu\", \"cuda:0\" or \"tensorrt:0\"")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
            Device::TensorRt(number) => write!(f, "tensorrt:{number}"),
        }
    }
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// The graph's file; files it refers to lie beside it.
    pub graph: PathBuf,
    /// Where to run it.
    pub device: Device,
    /// The number format of its weights, for the engine's own choices.
    pub precision: Precision,
    /// How many copies may run at once.
    pub instances: usize,
    /// Processor threads one instance may use for one run (CPU devices).
    pub threads: usize,
    /// A folder of this host in which optimised graphs and compiled kernels may be kept between
    /// starts. `None` keeps nothing.
    pub cache: Option<PathBuf>,
    /// Names the graph's content; a cache entry of another key is never used.
    pub cache_key: String,
}

/// A model on its device.
pub struct Loaded {
    /// Its inputs and outputs.
    pub signature: Signature,
    /// The device it runs on, and why that one.
    pub choice: Choice,
    /// `LoadSpec::instances` copies.
    pub instances: Vec<Box<dyn Instance>>,
    /// Memory that loading took, all instances together: the process's on a CPU, the device's
    /// elsewhere. An estimate where the device cannot tell.
    pub memory_bytes: u64,
    /// Where the time of loading went, in order.
    pub phases: Vec<LoadPhase>,
}

/// The device that was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Never [`Device::Auto`].
    pub device: Device,
    /// One sentence, for the log.
    pub reason: String,
}

/// One part of the time of loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPhase {
    /// What was done, such as `session` or `optimise`.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Whether a cache from an earlier start made it shorter.
    pub warm: bool,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("signature", &self.signature)
            .field("choice", &self.choice)
            .field("instances", &self.instances.len())
            .field("memory_bytes", &self.memory_bytes)
            .field("phases", &self.phases)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_device_survives_being_printed(number in any::<u32>(), kind in 0..4) {
            let device = [Device::Auto, Device::Cpu, Device::Cuda(number), Device::TensorRt(number)][kind as usize];
            prop_assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
    }

    #[test]
    fn what_is_no_device_is_refused_with_what_would_be() {
        for bad in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "CUDA:0"] {
            let refusal = bad.parse::<Device>().unwrap_err();
            assert!(refusal.contains("cuda:0"), "{refusal}");
        }
    }
}
