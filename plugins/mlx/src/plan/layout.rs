//! How the elements of an array lie in its buffer, as far as it decides whether an operation copies.

/// Shape and strides, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Layout {
    /// Elements one after another.
    pub fn row_major(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self { shape: shape.to_vec(), strides }
    }

    /// `[B, H, T, D]` that lies in memory as `[B, T, H, D]`, which is how attention and rotary positions leave their results.
    pub fn heads_inside(shape: &[usize]) -> Self {
        let mut layout = Self::row_major(shape);
        if let [_, heads, tokens, width] = *shape {
            layout.strides = vec![tokens * heads * width, width, heads * width, 1];
        }
        layout
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements lie one after another.
    pub fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        })
    }

    /// Whether the elements fill their part of the buffer, in any order of the axes.
    pub fn is_dense(&self) -> bool {
        let mut axes: Vec<(usize, usize)> =
            self.strides.iter().copied().zip(self.shape.iter().copied()).filter(|&(_, length)| length != 1).collect();
        axes.sort_unstable();
        let mut expected = 1;
        axes.into_iter().all(|(stride, length)| {
            let fits = stride == expected;
            expected *= length;
            fits
        })
    }

    /// One element, repeated.
    pub fn is_scalar(&self) -> bool {
        self.shape.iter().zip(&self.strides).all(|(&length, &stride)| length == 1 || stride == 0)
    }

    pub fn transposed(&self, axes: &[usize]) -> Self {
        let pick = |values: &[usize]| axes.iter().map(|&axis| values[axis]).collect();
        Self { shape: pick(&self.shape), strides: pick(&self.strides) }
    }

    /// Repeated along axes of length 1, and along new ones at the left.
    pub fn broadcast(&self, shape: &[usize]) -> Self {
        let new = shape.len() - self.shape.len();
        let stride = |axis: usize| match axis.checked_sub(new) {
            Some(own) if self.shape[own] == shape[axis] => self.strides[own],
            _ => 0,
        };
        Self { shape: shape.to_vec(), strides: (0..shape.len()).map(stride).collect() }
    }

    /// A part of each axis.
    pub fn sliced(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), strides: self.strides.clone() }
    }

    /// The same elements in another shape; none where they have to be copied for that (`prepare_reshape` in MLX's
    /// `backend/common/common.cpp`).
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        if self.is_row_major() || self.elements() == 0 {
            return Some(Self::row_major(shape));
        }
        let mut parts = self.collapsed().into_iter();
        let mut part = parts.next();
        let mut strides: Vec<usize> = Vec::new();
        for &length in shape {
            match &mut part {
                Some((rest, stride)) if *rest % length == 0 => {
                    *rest /= length;
                    strides.push(*rest * *stride);
                    if *rest == 1 {
                        part = parts.next();
                    }
                }
                _ if length == 1 => strides.push(strides.last().copied().unwrap_or(1)),
                _ => return None,
            }
        }
        Some(Self { shape: shape.to_vec(), strides })
    }

    /// Lengths and strides of the axes, neighbours that lie one after another as one.
    fn collapsed(&self) -> Vec<(usize, usize)> {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for (&length, &stride) in self.shape.iter().zip(&self.strides).filter(|&(&length, _)| length != 1) {
            match parts.last_mut() {
                Some((before, outer)) if *outer == length * stride => (*before, *outer) = (*before * length, stride),
                _ => parts.push((length, stride)),
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposition_is_dense_and_not_row_major() {
        let layout = Layout::row_major(&[2, 3, 4]).transposed(&[0, 2, 1]);
        assert_eq!((layout.is_row_major(), layout.is_dense()), (false, true));
        assert!(layout.transposed(&[0, 2, 1]).is_row_major());
        assert!(!Layout::row_major(&[2, 4]).sliced(&[2, 3]).is_dense());
        assert!(Layout::row_major(&[1]).broadcast(&[5, 3]).is_scalar());
    }

    #[test]
    fn heads_that_lie_inside_are_joined_without_a_copy() {
        let joined = Layout::heads_inside(&[2, 4, 7, 8]).transposed(&[0, 2, 1, 3]);
        assert!(joined.is_row_major());
        assert!(Layout::heads_inside(&[2, 4, 7, 8]).reshaped(&[2, 4, 56]).is_none(), "these are copied");
        assert!(Layout::heads_inside(&[2, 4, 7, 8]).reshaped(&[2, 2, 2, 7, 8]).is_some());
    }
}
