//! Tensors to ONNX Runtime's values, borrowed, and values to tensors, copied.

use half::{bf16, f16};
use halny_engine::{ElementType, EngineError, Tensor, TensorView};
use ort::memory::Allocator;
use ort::session::SessionInputValue;
use ort::value::{DynValue, TensorRef};

/// Runs `$body` with `$rust` standing for the Rust type of `$element`.
macro_rules! with_type {
    ($element:expr, $rust:ident => $body:expr) => {
        match $element {
            ElementType::Bool => {
                type $rust = bool;
                $body
            }
            ElementType::U8 => {
                type $rust = u8;
                $body
            }
            ElementType::U16 => {
                type $rust = u16;
                $body
            }
            ElementType::U32 => {
                type $rust = u32;
                $body
            }
            ElementType::U64 => {
                type $rust = u64;
                $body
            }
            ElementType::I8 => {
                type $rust = i8;
                $body
            }
            ElementType::I16 => {
                type $rust = i16;
                $body
            }
            ElementType::I32 => {
                type $rust = i32;
                $body
            }
            ElementType::I64 => {
                type $rust = i64;
                $body
            }
            ElementType::F16 => {
                type $rust = f16;
                $body
            }
            ElementType::Bf16 => {
                type $rust = bf16;
                $body
            }
            ElementType::F32 => {
                type $rust = f32;
                $body
            }
            ElementType::F64 => {
                type $rust = f64;
                $body
            }
        }
    };
}

/// Makes inputs readable in place: a tensor whose bytes lie off its type's alignment, as bytes from
/// the network may, is copied into `spare`, in `spare[place]`.
///
/// # Errors
/// [`EngineError::Input`] for a boolean that is neither 0 nor 1, which C++ may not be handed.
pub(crate) fn prepare(
    inputs: &[TensorView<'_>],
    names: &[&str],
    spare: &mut Vec<Option<Tensor>>,
) -> Result<(), EngineError> {
    spare.clear();
    for (input, name) in inputs.iter().zip(names) {
        if input.element == ElementType::Bool && input.bytes.iter().any(|byte| *byte > 1) {
            return Err(EngineError::Input(format!("input {name:?} takes BOOL elements, each a byte of 0 or 1")));
        }
        let aligned = input.bytes.as_ptr().addr().is_multiple_of(input.element.size());
        spare.push(if aligned { None } else { Some(Tensor::from_bytes(input.element, input.shape, input.bytes)?) });
    }
    Ok(())
}

/// A value that borrows a tensor's bytes.
pub(crate) fn borrow<'a>(tensor: TensorView<'a>) -> ort::Result<SessionInputValue<'a>> {
    with_type!(tensor.element, T => {
        let elements: &'a [T] = bytemuck::checked::try_cast_slice(tensor.bytes).map_err(misfit)?;
        Ok(TensorRef::<T>::from_array_view((tensor.shape, elements))?.into())
    })
}

/// A value in memory of `allocator`, with a tensor's elements.
pub(crate) fn copy_into(allocator: &Allocator, tensor: TensorView<'_>) -> ort::Result<DynValue> {
    with_type!(tensor.element, T => {
        let elements: &[T] = bytemuck::checked::try_cast_slice(tensor.bytes).map_err(misfit)?;
        let mut value = ort::value::Tensor::<T>::new(allocator, tensor.shape)?;
        let (_, room) = value.try_extract_tensor_mut::<T>()?;
        room.copy_from_slice(elements);
        Ok(value.into_dyn())
    })
}

/// Copies a value that the processor can read into `tensor`, whose buffer is reused.
pub(crate) fn copy_out(value: &DynValue, element: ElementType, tensor: &mut Tensor) -> ort::Result<()> {
    with_type!(element, T => {
        let (shape, elements) = value.try_extract_tensor::<T>()?;
        let shape: Vec<usize> = shape.iter().map(|length| usize::try_from(*length).unwrap_or(0)).collect();
        tensor.reset(element, &shape).map_err(ort::Error::wrap)?;
        tensor.bytes_mut().copy_from_slice(bytemuck::cast_slice(elements));
        Ok(())
    })
}

fn misfit(error: bytemuck::checked::CheckedCastError) -> ort::Error {
    ort::Error::new(format!("a tensor's bytes cannot be read in place: {error}"))
}
