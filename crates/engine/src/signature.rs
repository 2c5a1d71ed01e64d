//! What goes into a graph and what comes out.

use crate::{ElementType, EngineError, TensorView};

/// One dimension of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// As long as the caller likes; dimensions of one name are equally long. The name may be empty.
    Free(String),
}

/// One input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements.
    pub element: ElementType,
    /// Its dimensions, outermost first.
    pub dims: Vec<Dim>,
}

/// The inputs and outputs of a graph, in the graph's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// What goes in.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
}

impl Port {
    /// Whether the outermost dimension is free: requests can be joined along it.
    #[must_use]
    pub fn is_batched(&self) -> bool {
        matches!(self.dims.first(), Some(Dim::Free(_)))
    }

    /// The shape as the Open Inference Protocol writes it: `-1` for a free dimension.
    #[must_use]
    pub fn oip_shape(&self) -> Vec<i64> {
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
            Dim::Free(_) => -1,
        };
        self.dims.iter().map(length).collect()
    }

    /// Checks that a tensor may stand here.
    ///
    /// # Errors
    /// [`EngineError::Input`] that names the port, what was given and what would be right.
    pub fn accept(&self, tensor: TensorView<'_>) -> Result<(), EngineError> {
        if tensor.element != self.element {
            return Err(EngineError::Input(format!(
                "input {:?} takes {} elements, {} were given",
                self.name, self.element, tensor.element
            )));
        }
        let fits = |(dim, length): (&Dim, &usize)| match dim {
            Dim::Fixed(wanted) => wanted == length,
            Dim::Free(_) => true,
        };
        if tensor.shape.len() != self.dims.len() || !self.dims.iter().zip(tensor.shape).all(fits) {
            return Err(EngineError::Input(format!(
                "input {:?} takes the shape {:?} (-1 stands for any length), {:?} was given",
                self.name,
                self.oip_shape(),
                tensor.shape
            )));
        }
        let wanted = crate::tensor::bytes_of(tensor.element, tensor.shape)?;
        if wanted != tensor.bytes.len() {
            return Err(EngineError::Input(format!(
                "input {:?} of shape {:?} takes {wanted} bytes, {} were given",
                self.name,
                tensor.shape,
                tensor.bytes.len()
            )));
        }
        Ok(())
    }
}

impl Signature {
    /// Whether requests can be joined along the outermost dimension of every input and output.
    #[must_use]
    pub fn is_batched(&self) -> bool {
        !self.inputs.is_empty() && self.inputs.iter().chain(&self.outputs).all(Port::is_batched)
    }

    /// The input of that name, with its place.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<(usize, &Port)> {
        self.inputs.iter().enumerate().find(|(_, port)| port.name == name)
    }

    /// Checks a whole set of inputs, in the signature's order.
    ///
    /// # Errors
    /// [`EngineError::Input`] that names the first port that does not fit.
    pub fn accept(&self, inputs: &[TensorView<'_>]) -> Result<(), EngineError> {
        if inputs.len() != self.inputs.len() {
            let names: Vec<_> = self.inputs.iter().map(|port| port.name.as_str()).collect();
            return Err(EngineError::Input(format!(
                "the model takes {} inputs ({}), {} were given",
                self.inputs.len(),
                names.join(", "),
                inputs.len()
            )));
        }
        self.inputs.iter().zip(inputs).try_for_each(|(port, tensor)| port.accept(*tensor))
    }
}
