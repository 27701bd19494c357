//! Four-dimensional views (batch, heads, positions, features) over memory of any layout.

use super::half::Element;

/// A read-only view of x[batch, head, position, feature] with a stride for each axis, in elements; 0 for a broadcast axis.
#[derive(Clone, Copy, Debug)]
pub struct View4<'a, E = f32> {
    data: &'a [E],
    shape: [usize; 4],
    strides: [usize; 4],
}

impl<'a, E: Element> View4<'a, E> {
    /// Views `data`, whose first element is x[0, 0, 0, 0].
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a [E], shape: [usize; 4], strides: [usize; 4]) -> Self {
        let extent = extent(shape, strides);
        assert!(
            extent <= data.len(),
            "a view of {shape:?} with strides {strides:?} needs {extent} elements, not {}",
            data.len()
        );
        Self { data, shape, strides }
    }

    /// Views row-major data.
    pub fn contiguous(data: &'a [E], shape: [usize; 4]) -> Self {
        let [_, h, t, d] = shape;
        Self::new(data, shape, [h * t * d, t * d, d, 1])
    }

    /// Lengths of the axes: batch, heads, positions, features.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Copies the features at one place into the front of `row`, as f32.
    #[inline(always)]
    pub fn read_row(&self, batch: usize, head: usize, position: usize, row: &mut [f32]) {
        let [b, h, t, d] = self.strides;
        let from = &self.data[batch * b + head * h + position * t..];
        let width = self.shape[3];
        if d == 1 {
            row[..width].iter_mut().zip(&from[..width]).for_each(|(to, from)| *to = from.wide());
        } else {
            for (i, value) in row[..width].iter_mut().enumerate() {
                *value = from[i * d].wide();
            }
        }
    }
}

/// Number of elements from the first to the last one of a view, inclusive.
pub fn extent(shape: [usize; 4], strides: [usize; 4]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().zip(strides).map(|(&length, stride)| (length - 1) * stride).sum::<usize>() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rows_of_any_layout() {
        let data: Vec<f32> = (0..2 * 3 * 4 * 5).map(|i| i as f32).collect();
        let mut row = [0.0; 5];
        View4::contiguous(&data, [2, 3, 4, 5]).read_row(1, 2, 3, &mut row);
        assert_eq!(row, [115.0, 116.0, 117.0, 118.0, 119.0]);
        View4::new(&data, [2, 4, 3, 5], [60, 5, 20, 1]).read_row(1, 3, 2, &mut row);
        assert_eq!(row, [115.0, 116.0, 117.0, 118.0, 119.0]);
        View4::new(&data[7..], [1, 1, 9, 5], [0, 0, 0, 0]).read_row(0, 0, 8, &mut row);
        assert_eq!(row, [7.0; 5]);
    }

    #[test]
    #[should_panic(expected = "needs 120 elements")]
    fn refuses_a_view_beyond_its_memory() {
        View4::contiguous(&[0.0; 119], [2, 3, 4, 5]);
    }
}
