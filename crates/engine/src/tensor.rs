//! Dense tensors: an element type, a shape, and bytes in row-major order, little-endian.

use crate::{Element, ElementType, EngineError};

/// An owned tensor whose buffer grows when needed and is never given back.
///
/// The buffer is aligned to 8 bytes, so that any element type can be read in place.
#[derive(Clone, Debug)]
pub struct Tensor {
    element: ElementType,
    shape: Vec<usize>,
    words: Vec<u64>,
    bytes: usize,
}

/// A borrowed tensor. `bytes` is aligned for its element type when it comes from a [`Tensor`].
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The type of its elements.
    pub element: ElementType,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
    /// Its elements, row-major, little-endian.
    pub bytes: &'a [u8],
}

/// The bytes a tensor of this type and shape takes.
///
/// # Errors
/// [`EngineError::Input`] when the product of the dimensions does not fit the machine's addresses.
pub fn bytes_of(element: ElementType, shape: &[usize]) -> Result<usize, EngineError> {
    shape
        .iter()
        .try_fold(element.size(), |product, dim| product.checked_mul(*dim))
        .filter(|bytes| isize::try_from(*bytes).is_ok())
        .ok_or_else(|| EngineError::Input(format!("the shape {shape:?} has more elements than memory has addresses")))
}

impl Tensor {
    /// An empty tensor of `element`, whose buffer is yet to be made by [`Tensor::reset`].
    #[must_use]
    pub fn empty(element: ElementType) -> Tensor {
        Tensor { element, shape: vec![0], words: Vec::new(), bytes: 0 }
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`bytes_of`].
    pub fn zeros(element: ElementType, shape: &[usize]) -> Result<Tensor, EngineError> {
        let mut tensor = Tensor::empty(element);
        tensor.reset(element, shape)?;
        Ok(tensor)
    }

    /// A tensor of these elements.
    ///
    /// # Errors
    /// [`EngineError::Input`] when the number of elements is not the product of the dimensions.
    pub fn from_slice<T: Element>(shape: &[usize], elements: &[T]) -> Result<Tensor, EngineError> {
        Tensor::from_bytes(T::TYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A tensor of these bytes, which are copied.
    ///
    /// # Errors
    /// [`EngineError::Input`] when the number of bytes does not follow from type and shape.
    pub fn from_bytes(element: ElementType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, EngineError> {
        let wanted = bytes_of(element, shape)?;
        if wanted != bytes.len() {
            return Err(EngineError::Input(format!(
                "a {element} tensor of shape {shape:?} takes {wanted} bytes, {} were given",
                bytes.len()
            )));
        }
        let mut tensor = Tensor::zeros(element, shape)?;
        tensor.bytes_mut().copy_from_slice(bytes);
        Ok(tensor)
    }

    /// Takes a new type and shape, all zeros, in the buffer it has where that is large enough.
    ///
    /// # Errors
    /// As [`bytes_of`].
    pub fn reset(&mut self, element: ElementType, shape: &[usize]) -> Result<(), EngineError> {
        let bytes = bytes_of(element, shape)?;
        self.words.clear();
        self.words.resize(bytes.div_ceil(size_of::<u64>()), 0);
        self.element = element;
        self.shape.clear();
        self.shape.extend_from_slice(shape);
        self.bytes = bytes;
        Ok(())
    }

    /// The type of its elements.
    #[must_use]
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Its dimensions, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements as bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words).get(..self.bytes).unwrap_or(&[])
    }

    /// Its elements as bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words).get_mut(..self.bytes).unwrap_or(&mut [])
    }

    /// Its elements, or `None` when `T` is not their type.
    #[must_use]
    pub fn elements<T: Element>(&self) -> Option<&[T]> {
        (T::TYPE == self.element).then(|| bytemuck::cast_slice(self.bytes()))
    }

    /// Its elements, to be written, or `None` when `T` is not their type.
    pub fn elements_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        (T::TYPE == self.element).then(|| bytemuck::cast_slice_mut(self.bytes_mut()))
    }

    /// The tensor, borrowed.
    #[must_use]
    pub fn view(&self) -> TensorView<'_> {
        TensorView { element: self.element, shape: &self.shape, bytes: self.bytes() }
    }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.element == other.element && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

impl<'a> TensorView<'a> {
    /// Its elements, or `None` when `T` is not their type or the bytes are not aligned for it.
    #[must_use]
    pub fn elements<T: Element>(&self) -> Option<&'a [T]> {
        if T::TYPE != self.element {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes).ok()
    }

    /// The part of the tensor with outermost indices `rows`: its bytes, or `None` when out of range.
    #[must_use]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Option<&'a [u8]> {
        let outer = *self.shape.first()?;
        if rows.end > outer {
            return None;
        }
        let stride = self.bytes.len().checked_div(outer).unwrap_or(0);
        self.bytes.get(rows.start * stride..rows.end * stride)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_shape_whose_product_wraps_is_refused() {
        let wraps = [usize::MAX / 2, 3];
        assert!(matches!(Tensor::zeros(ElementType::F32, &wraps), Err(EngineError::Input(_))));
        assert!(matches!(Tensor::from_bytes(ElementType::F32, &wraps, &[]), Err(EngineError::Input(_))));
    }

    #[test]
    fn a_reused_buffer_shows_nothing_of_what_it_held() {
        let mut tensor = Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        tensor.reset(ElementType::I64, &[1]).unwrap();
        assert_eq!(tensor.elements::<i64>().unwrap(), &[0]);
        tensor.reset(ElementType::F32, &[3]).unwrap();
        assert_eq!(tensor.elements::<f32>().unwrap(), &[0.0; 3]);
        assert_eq!(tensor.elements::<i32>(), None);
    }

    proptest! {
        #[test]
        fn rows_cut_a_tensor_into_its_parts(outer in 1usize..6, inner in 0usize..5, cut in 0usize..6) {
            let cut = cut.min(outer);
            let elements: Vec<i32> = (0..i32::try_from(outer * inner).unwrap()).collect();
            let tensor = Tensor::from_slice(&[outer, inner], &elements).unwrap();
            let mut joined = tensor.view().rows(0..cut).unwrap().to_vec();
            joined.extend_from_slice(tensor.view().rows(cut..outer).unwrap());
            prop_assert_eq!(&joined, tensor.bytes());
            prop_assert!(tensor.view().rows(0..outer + 1).is_none());
        }
    }
}
