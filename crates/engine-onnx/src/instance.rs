//! One session, and how a batch goes through it.

use std::sync::Arc;
use std::time::Instant;

use halny_engine::{Device, ElementType, EngineError, Instance, RunReport, Signature, Tensor, TensorView};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session, SessionOutputs};
use tracing::warn;

use crate::{ports, values};

/// One session with what it reuses from run to run.
pub(crate) struct OnnxInstance {
    signature: Arc<Signature>,
    pinned: Option<Pinned>,
    options: RunOptions,
    spare: Vec<Option<Tensor>>,
    session: Session,
}

/// Page-locked memory that a CUDA device reads and writes by itself, at twice to three times the
/// speed of pageable memory, which the driver copies once more.
struct Pinned {
    binding: IoBinding,
    allocator: Allocator,
    memory: MemoryInfo<'static>,
}

impl OnnxInstance {
    /// Readies a session for runs on `device`.
    pub(crate) fn new(session: Session, signature: Arc<Signature>, device: Device) -> ort::Result<OnnxInstance> {
        let pinned = match device {
            Device::Auto | Device::Cpu => None,
            Device::Cuda(number) | Device::TensorRt(number) => Pinned::new(&session, number)
                .inspect_err(
                    |error| warn!(%error, %device, "no pinned memory, copies to and from the device are slower"),
                )
                .ok(),
        };
        let mut options = RunOptions::new()?;
        options.set_log_level(ort::logging::LogLevel::Warning)?;
        Ok(OnnxInstance { signature, pinned, options, spare: Vec::new(), session })
    }
}

impl Pinned {
    fn new(session: &Session, number: u32) -> ort::Result<Pinned> {
        // Pinned memory has the number of its device since ONNX Runtime 1.23, and had 0 before.
        let (memory, allocator) = Pinned::allocator(session, number).or_else(|_| Pinned::allocator(session, 0))?;
        Ok(Pinned { binding: session.create_binding()?, allocator, memory })
    }

    fn allocator(session: &Session, number: u32) -> ort::Result<(MemoryInfo<'static>, Allocator)> {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let memory =
            MemoryInfo::new(AllocationDevice::CUDA_PINNED, number, AllocatorType::Device, MemoryType::CPUOutput)?;
        let allocator = Allocator::new(session, memory.clone())?;
        Ok((memory, allocator))
    }

    /// Copies the inputs to pinned memory and lets every output be allocated there: a bound output
    /// keeps the shape of the run before, so outputs are bound anew each time.
    fn bind(&mut self, signature: &Signature, inputs: &[TensorView<'_>]) -> ort::Result<()> {
        self.binding.clear_outputs();
        for (port, input) in signature.inputs.iter().zip(inputs) {
            let value = values::copy_into(&self.allocator, *input)?;
            self.binding.bind_input(port.name.as_str(), &value)?;
        }
        for port in &signature.outputs {
            self.binding.bind_output_to_device(port.name.as_str(), &self.memory)?;
        }
        self.binding.synchronize_inputs()
    }
}

impl Instance for OnnxInstance {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[TensorView<'_>], outputs: &mut Vec<Tensor>) -> Result<RunReport, EngineError> {
        ports::accept(&self.signature, inputs)?;
        let names: Vec<&str> = self.signature.inputs.iter().map(|port| port.name.as_str()).collect();
        values::prepare(inputs, &names, &mut self.spare)?;
        let began = Instant::now();
        let spare = self.spare.iter().zip(inputs);
        let readable: Vec<TensorView<'_>> =
            spare.map(|(copy, input)| copy.as_ref().map_or(*input, Tensor::view)).collect();
        let done = match &mut self.pinned {
            None => run_in_place(&mut self.session, &self.options, &self.signature, &readable, outputs),
            Some(pinned) => run_pinned(&mut self.session, &self.options, &self.signature, &readable, outputs, pinned),
        };
        done.map_err(|error| explain(&error))?;
        Ok(RunReport { device_time: began.elapsed() })
    }
}

fn run_in_place(
    session: &mut Session,
    options: &RunOptions,
    signature: &Signature,
    inputs: &[TensorView<'_>],
    outputs: &mut Vec<Tensor>,
) -> ort::Result<()> {
    let values = inputs.iter().map(|input| values::borrow(*input)).collect::<ort::Result<Vec<_>>>()?;
    let made = session.run_with_options(values.as_slice(), options)?;
    copy_outputs(&made, signature, outputs)
}

fn run_pinned(
    session: &mut Session,
    options: &RunOptions,
    signature: &Signature,
    inputs: &[TensorView<'_>],
    outputs: &mut Vec<Tensor>,
    pinned: &mut Pinned,
) -> ort::Result<()> {
    pinned.bind(signature, inputs)?;
    let made = session.run_binding_with_options(&pinned.binding, options)?;
    pinned.binding.synchronize_outputs()?;
    copy_outputs(&made, signature, outputs)
}

fn copy_outputs(made: &SessionOutputs<'_>, signature: &Signature, outputs: &mut Vec<Tensor>) -> ort::Result<()> {
    outputs.resize_with(signature.outputs.len(), || Tensor::empty(ElementType::U8));
    for (port, tensor) in signature.outputs.iter().zip(outputs) {
        let value =
            made.get(&port.name).ok_or_else(|| ort::Error::new(format!("no output {:?} was made", port.name)))?;
        values::copy_out(value, port.element, tensor)?;
    }
    Ok(())
}

/// Tells a full device from a failing graph, by the words that the allocators of ONNX Runtime, CUDA,
/// cuBLAS and cuDNN use: ONNX Runtime's error code is the same for all.
fn explain(error: &ort::Error) -> EngineError {
    const FULL: [&str; 6] = [
        "out of memory",
        "failed to allocate memory",
        "bad_alloc",
        "bfcarena",
        "_status_alloc_failed",
        "cudaerrormemoryallocation",
    ];
    let cause = error.to_string();
    let lower = cause.to_lowercase();
    if FULL.iter().any(|words| lower.contains(words)) { EngineError::Memory } else { EngineError::Run { cause } }
}
