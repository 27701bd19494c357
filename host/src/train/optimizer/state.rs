//! States in host memory.

use std::ops::Range;

use mdt_plugin_api::{Dtype, Error, Initial, Result, StateRef, StateShape, StateSpec, bf16, f16};

use crate::finite::all_finite;

/// A state of one parameter, or of the elements of it that a rank updates.
pub(super) struct HostState {
    /// The shape of the state of the whole parameter.
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    /// The elements of the parameter for which it has one: 1, or those of a block; none where it has a shape of its own.
    block: Option<usize>,
    /// Words, so that elements of every type are aligned.
    words: Vec<u64>,
    /// Its first byte in the state of the whole parameter.
    start: usize,
    length: usize,
}

/// Which bytes of a parameter's state a rank has that updates these elements of it.
pub(super) fn range_of(spec: &StateSpec, parameter: &[usize], own: Option<&Range<usize>>) -> Range<usize> {
    let (size, Some(own)) = (spec.dtype.size(), own) else { return 0..0 };
    match spec.shape {
        StateShape::Parameter => own.start * size..own.end * size,
        StateShape::Blocks(block) => own.start / block * size..own.end.div_ceil(block) * size,
        StateShape::Of(_) | StateShape::Scalar => {
            0..spec.shape.of(parameter).iter().fold(size, |bytes, &axis| bytes.saturating_mul(axis))
        }
    }
}

impl HostState {
    /// A state with its initial value, of the elements `own`. `parameter` is the parameter's shape, `values` gives all of its
    /// elements.
    pub(super) fn new(
        spec: &StateSpec,
        parameter: &[usize],
        own: Option<&Range<usize>>,
        values: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let shape = spec.shape.of(parameter);
        shape
            .iter()
            .try_fold(spec.dtype.size(), |bytes, &axis| bytes.checked_mul(axis))
            .ok_or_else(|| Error::plugin(format!("the state `{}` of shape {shape:?} is too large", spec.name)))?;
        let Range { start, end } = range_of(spec, parameter, own);
        let block = match spec.shape {
            StateShape::Parameter => Some(1),
            StateShape::Blocks(elements) => Some(elements),
            StateShape::Of(_) | StateShape::Scalar => None,
        };
        let length = end - start;
        let words = vec![0; length.div_ceil(size_of::<u64>())];
        let mut state = Self { shape, dtype: spec.dtype, block, words, start, length };
        match spec.initial {
            Initial::Value(value) => {
                let element = element(spec.dtype, value).unwrap_or_default();
                if element.iter().any(|&byte| byte != 0) {
                    state.bytes_mut().chunks_exact_mut(element.len()).for_each(|to| to.copy_from_slice(&element));
                }
            }
            Initial::Parameter => {
                if let Some(own) = own {
                    copy_rounded(values()?.get(own.clone()).unwrap_or_default(), spec.dtype, state.bytes_mut());
                }
            }
        }
        Ok(state)
    }

    /// Which bytes of the state of the whole parameter it has.
    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.start + self.length
    }

    /// The state of the whole parameter, with elements that are 0.
    pub(super) fn whole(&self) -> Self {
        Self { start: 0, length: self.whole_bytes(), ..self.without_elements() }.with_room()
    }

    /// The bytes of the state of the whole parameter.
    pub(super) fn whole_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// The same state without memory for its elements.
    pub(super) fn without_elements(&self) -> Self {
        Self { shape: self.shape.clone(), words: Vec::new(), ..*self }
    }

    /// The same state with memory for its elements, which are 0.
    pub(super) fn with_room(&self) -> Self {
        Self { words: vec![0; self.length.div_ceil(size_of::<u64>())], ..self.without_elements() }
    }

    /// Its elements.
    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.length]
    }

    /// Its elements, for writing.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.length]
    }

    /// Its elements, by their type.
    pub(super) fn elements(&self) -> Result<StateRef<'_>> {
        StateRef::from_bytes(self.dtype, self.bytes())
    }

    /// The bytes that belong to so many elements of the parameter; all of them where it has a shape of its own.
    pub(super) fn bytes_for(&self, elements: usize) -> usize {
        self.block.map_or(self.length, |block| elements.div_ceil(block) * self.dtype.size())
    }
}

/// Whether its numbers have fractions.
pub(super) fn is_real(dtype: Dtype) -> bool {
    [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64].contains(&dtype)
}

/// A number as an element of a type; none where the type cannot have it, or it is not finite.
pub(super) fn element(dtype: Dtype, value: f64) -> Option<Vec<u8>> {
    macro_rules! integer {
        ($type:ty) => {{
            let number = value as $type;
            (number as f64 == value).then(|| number.to_le_bytes().to_vec())
        }};
    }
    macro_rules! real {
        ($number:expr) => {{
            let number = $number;
            number.is_finite().then(|| number.to_le_bytes().to_vec())
        }};
    }
    match dtype {
        Dtype::BOOL => [0.0, 1.0].contains(&value).then(|| vec![value as u8]),
        Dtype::U8 => integer!(u8),
        Dtype::I8 => integer!(i8),
        Dtype::U16 => integer!(u16),
        Dtype::I16 => integer!(i16),
        Dtype::U32 => integer!(u32),
        Dtype::I32 => integer!(i32),
        Dtype::U64 => integer!(u64),
        Dtype::I64 => integer!(i64),
        Dtype::F16 => real!(f16::from_f64(value)),
        Dtype::BF16 => real!(bf16::from_f64(value)),
        Dtype::F32 => real!(value as f32),
        Dtype::F64 => real!(value),
        _ => None,
    }
}

/// Copies numbers to a floating-point type.
fn copy_rounded(values: &[f32], dtype: Dtype, to: &mut [u8]) {
    for (&value, to) in values.iter().zip(to.chunks_exact_mut(dtype.size())) {
        if let Some(element) = element(dtype, f64::from(value)) {
            to.copy_from_slice(&element);
        }
    }
}

/// Whether all elements are finite numbers.
pub fn is_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    let halves =
        |is_finite: fn(u16) -> bool| bytes.as_chunks().0.iter().all(|&element| is_finite(u16::from_le_bytes(element)));
    match dtype {
        Dtype::F32 => bytemuck::try_cast_slice(bytes).is_ok_and(all_finite),
        Dtype::F16 => halves(|bits| f16::from_bits(bits).is_finite()),
        Dtype::BF16 => halves(|bits| bf16::from_bits(bits).is_finite()),
        Dtype::F64 => bytes.as_chunks().0.iter().all(|&element| f64::from_le_bytes(element).is_finite()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_values_are_those_that_the_type_can_have() {
        assert_eq!(element(Dtype::U8, 127.0), Some(vec![127]));
        assert_eq!(element(Dtype::I8, -1.0), Some(vec![255]));
        assert_eq!(element(Dtype::BF16, 1.0), Some(vec![0x80, 0x3f]));
        for (dtype, value) in
            [(Dtype::U8, 256.0), (Dtype::U8, 0.5), (Dtype::F32, 1e39), (Dtype::F16, 1e6), (Dtype(99), 0.0)]
        {
            assert_eq!(element(dtype, value), None, "{value} as {dtype}");
        }
        assert_eq!(element(Dtype::F32, f64::NAN), None);
    }

    #[test]
    fn a_state_starts_as_its_value_or_as_the_parameter_and_has_a_part_for_each_slice() {
        let spec = StateSpec::zeros("m").with_dtype(Dtype::BF16).with_initial(Initial::Parameter);
        let state = HostState::new(&spec, &[3], Some(&(0..3)), || Ok(vec![1.0, -2.0, 0.5])).unwrap();
        let values: Vec<f32> =
            state.elements().unwrap().elements::<bf16>().unwrap().iter().map(|x| x.to_f32()).collect();
        assert_eq!((values, state.bytes_for(2)), (vec![1.0, -2.0, 0.5], 4));

        let spec = StateSpec::zeros("s").with_shape(StateShape::Blocks(4)).with_dtype(Dtype::U8);
        let state =
            HostState::new(&spec.with_initial(Initial::Value(7.0)), &[3, 3], Some(&(0..9)), || Ok(Vec::new())).unwrap();
        assert_eq!((state.bytes(), state.shape.as_slice()), (&[7u8; 3][..], &[3][..]));
        assert_eq!([4, 5, 9].map(|elements| state.bytes_for(elements)), [1, 2, 3]);
    }

    #[test]
    fn a_part_of_a_parameter_has_its_part_of_each_state() {
        let own = Some(&(4..9));
        let copy = StateSpec::zeros("z").with_initial(Initial::Parameter);
        let state = HostState::new(&copy, &[3, 4], own, || Ok((0..12).map(|n| n as f32).collect())).unwrap();
        assert_eq!(state.elements().unwrap().elements::<f32>().unwrap(), [4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!((state.range(), state.shape.as_slice(), state.whole().range()), (16..36, &[3, 4][..], 0..48));
        let scale = StateSpec::zeros("s").with_shape(StateShape::Blocks(4)).with_dtype(Dtype::F64);
        assert_eq!(range_of(&scale, &[3, 4], own), 8..24);
        let rows = StateSpec::zeros("r").with_shape(StateShape::Of(vec![3]));
        assert_eq!([range_of(&rows, &[3, 4], Some(&(0..12))), range_of(&rows, &[3, 4], None)], [0..12, 0..0]);
    }

    #[test]
    fn a_number_that_is_not_finite_is_found_in_every_type() {
        let bytes = |dtype, value: f64| element(dtype, value).unwrap();
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
            assert!(is_finite(dtype, &[bytes(dtype, 1.0), bytes(dtype, -0.5)].concat()));
        }
        assert!(!is_finite(Dtype::BF16, &bf16::NAN.to_le_bytes()));
        assert!(!is_finite(Dtype::F16, &[f16::ONE.to_le_bytes(), f16::INFINITY.to_le_bytes()].concat()));
        assert!(!is_finite(Dtype::F64, &f64::NEG_INFINITY.to_le_bytes()));
        assert!(is_finite(Dtype::U8, &[255]));
    }
}
