//! The graph's inputs and outputs as a [`Signature`], and what a request's shapes must satisfy.

use halny_engine::{Dim, ElementType, EngineError, Port, Signature, TensorView};
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

/// Reads the signature of a loaded graph.
///
/// # Errors
/// [`EngineError::Load`] for a port that is not a dense tensor of numbers.
pub(crate) fn signature_of(session: &Session) -> Result<Signature, EngineError> {
    let ports =
        |side: &str, outlets: &[Outlet]| outlets.iter().map(|outlet| port(side, outlet)).collect::<Result<Vec<_>, _>>();
    Ok(Signature { inputs: ports("input", session.inputs())?, outputs: ports("output", session.outputs())? })
}

fn port(side: &str, outlet: &Outlet) -> Result<Port, EngineError> {
    let unsupported = |what: &str| {
        EngineError::Load(format!(
            "the graph's {side} {:?} is {what}, which is not supported; export the graph with dense tensors of numbers",
            outlet.name()
        ))
    };
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return Err(unsupported(match outlet.dtype() {
            ValueType::Sequence(_) => "a sequence",
            ValueType::Map { .. } => "a map",
            _ => "an optional value",
        }));
    };
    let element = element_of(*ty).ok_or_else(|| unsupported(&format!("a tensor of {ty}")))?;
    let dims = shape.iter().enumerate().map(|(axis, length)| match usize::try_from(*length) {
        Ok(length) => Dim::Fixed(length),
        Err(_) => Dim::Free(dimension_symbols.get(axis).cloned().unwrap_or_default()),
    });
    Ok(Port { name: outlet.name().to_owned(), element, dims: dims.collect() })
}

fn element_of(element: TensorElementType) -> Option<ElementType> {
    Some(match element {
        TensorElementType::Bool => ElementType::Bool,
        TensorElementType::Uint8 => ElementType::U8,
        TensorElementType::Uint16 => ElementType::U16,
        TensorElementType::Uint32 => ElementType::U32,
        TensorElementType::Uint64 => ElementType::U64,
        TensorElementType::Int8 => ElementType::I8,
        TensorElementType::Int16 => ElementType::I16,
        TensorElementType::Int32 => ElementType::I32,
        TensorElementType::Int64 => ElementType::I64,
        TensorElementType::Float16 => ElementType::F16,
        TensorElementType::Bfloat16 => ElementType::Bf16,
        TensorElementType::Float32 => ElementType::F32,
        TensorElementType::Float64 => ElementType::F64,
        _ => return None,
    })
}

/// Checks what the type and shape of each input alone do not show: that free dimensions of one name
/// are equally long, and that none is 0. Some kernels divide by a length, which ends the process.
///
/// # Errors
/// [`EngineError::Input`] that names the inputs at odds.
pub(crate) fn accept(signature: &Signature, inputs: &[TensorView<'_>]) -> Result<(), EngineError> {
    signature.accept(inputs)?;
    let mut known: Vec<(&str, usize, &str)> = Vec::new();
    for (port, tensor) in signature.inputs.iter().zip(inputs) {
        for (dim, length) in port.dims.iter().zip(tensor.shape) {
            let Dim::Free(name) = dim else { continue };
            if *length == 0 {
                return Err(EngineError::Input(format!(
                    "input {:?} has a dimension of length 0 ({:?}); each has to be 1 or more",
                    port.name, tensor.shape
                )));
            }
            match known.iter().find(|(other, ..)| other == name) {
                _ if name.is_empty() => {}
                None => known.push((name, *length, &port.name)),
                Some((_, earlier, _)) if earlier == length => {}
                Some((_, earlier, other)) => {
                    return Err(EngineError::Input(format!(
                        "the dimension {name:?} is {earlier} long in input {other:?} but {length} in input {:?}; they \
                         have to be equal",
                        port.name
                    )));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use halny_engine::Tensor;
    use proptest::prelude::*;

    fn pair(first: &str, second: &str) -> Signature {
        let port = |name: &str, dim: &str| Port {
            name: name.to_owned(),
            element: ElementType::U8,
            dims: vec![Dim::Free(dim.to_owned())],
        };
        Signature { inputs: vec![port("a", first), port("b", second)], outputs: Vec::new() }
    }

    proptest! {
        #[test]
        fn dimensions_of_one_name_are_equal_and_others_are_free(a in 0usize..4, b in 0usize..4) {
            let (left, right) = (Tensor::zeros(ElementType::U8, &[a]).unwrap(), Tensor::zeros(ElementType::U8, &[b]).unwrap());
            let inputs = [left.view(), right.view()];
            prop_assert_eq!(accept(&pair("n", "n"), &inputs).is_ok(), a == b && a > 0);
            prop_assert_eq!(accept(&pair("n", "m"), &inputs).is_ok(), a > 0 && b > 0);
            prop_assert_eq!(accept(&pair("", ""), &inputs).is_ok(), a > 0 && b > 0);
        }
    }

    #[test]
    fn an_inequality_is_told_with_both_names() {
        let (left, right) =
            (Tensor::zeros(ElementType::U8, &[2]).unwrap(), Tensor::zeros(ElementType::U8, &[3]).unwrap());
        let refusal = accept(&pair("batch", "batch"), &[left.view(), right.view()]).unwrap_err().to_string();
        assert!(["\"batch\"", "\"a\"", "\"b\"", "2", "3"].iter().all(|part| refusal.contains(part)), "{refusal}");
    }
}
