//! Matrix products of f32.
//!
//! A block of `DEPTH` steps of k at a time, the right operand is packed into panels for all threads, and each task packs some rows
//! of the left one for itself and makes a tile of the result, whose sums are in registers. An element of the result is the sum of its
//! blocks, and each of these is added up in the order of k: so its bits depend on its row of the left operand and its column of the
//! right one, and on nothing else - not on the other rows and columns, on threads, or on the width of vectors.
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::isa::{LANES, Simd, multiversion};
use super::microkernel::{Row, WIDE};
use super::pool;
use super::simd::{prefetch, transpose};

/// Steps of k at a time: a panel of the right operand stays in the first cache.
const DEPTH: usize = 256;
/// Rows of a panel of the left operand; its columns are those of the right one's: two vectors.
const PANEL: usize = 12;
/// One step of k of it.
type Column = [f32; PANEL];
/// Columns that are packed at a time.
const COLUMNS: usize = 2048;
/// Rows of a task, and the least of its columns where they are cut, too.
const TASK_ROWS: usize = 72;
const TASK_COLUMNS: usize = 256;
/// Panels of the right operand that a task packs.
const PACKED_AT_ONCE: usize = 2;
/// Below this many multiplications waking a thread costs more time than it saves.
const SMALLEST_SHARED: usize = 2 << 20;

/// One operand: element k of row (of the left one) or column (of the right one) i is `elements[i · across + k · along]`, and one of
/// both strides is 1.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// Its numbers.
    pub elements: &'a [f32],
    /// From a row or column to the next one.
    pub across: usize,
    /// From a step of k to the next one.
    pub along: usize,
}

/// Where the result goes: rows of `columns` numbers, `stride` apart.
pub struct Output<'a> {
    data: *mut f32,
    stride: usize,
    rows: usize,
    columns: usize,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is used as a `&mut [f32]` of which every thread has another part (see `Output::part`).
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// # Safety
    /// During `'a` nothing else touches these numbers, which are initialised where the result is added to them.
    pub unsafe fn new(data: *mut f32, stride: usize, rows: usize, columns: usize) -> Self {
        Self { data, stride, rows, columns, memory: PhantomData }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// The row and the columns exist, and no other thread asks for any of them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "each thread has its own part")]
    unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        debug_assert!(row < self.rows && columns.end <= self.columns);
        // SAFETY: inside of the memory that `new` was given, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + columns.start), columns.len()) }
    }
}

/// `out = alpha · left · right + beta · out`, over `depth` steps of k; where `beta` is 0, what was in `out` is not read.
pub fn multiply(left: Operand<'_>, right: Operand<'_>, depth: usize, alpha: f32, beta: f32, out: &Output<'_>) {
    thread_local!(static RIGHT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    RIGHT.with_borrow_mut(|memory| {
        let mut factors = (alpha, beta);
        // Without a step of k there is one block, of nothing.
        for k in (0..depth.max(1)).step_by(DEPTH) {
            let k = k..depth.min(k + DEPTH);
            for columns in blocks(out.columns, COLUMNS) {
                let packed = packed(memory, columns.len().div_ceil(WIDE) * k.len());
                pack_shared(right, &columns, &k, packed);
                make_tiles(left, packed, &k, factors, &columns, out);
            }
            factors = (alpha, 1.0);
        }
    });
}

/// Numbers of a line of the cache, at whose beginnings packed panels begin.
const LINE: usize = 16;

fn blocks(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(size).map(move |start| start..length.min(start + size))
}

/// Memory for so many steps of panels.
fn packed<const WIDTH: usize>(memory: &mut Vec<f32>, steps: usize) -> &mut [[f32; WIDTH]] {
    memory.resize(memory.len().max(steps * WIDTH + LINE), 0.0);
    let start = memory.as_ptr().align_offset(LINE * size_of::<f32>());
    &mut memory[start..].as_chunks_mut().0[..steps]
}

/// Packs columns in panels, one after another, each `[k][column]`. What a panel lacks is 0.
fn pack_shared(right: Operand<'_>, columns: &Range<usize>, k: &Range<usize>, to: &mut [Row]) {
    let is_shared = to.len() * WIDE > SMALLEST_SHARED / 64;
    let tasks: Vec<_> = to.chunks_mut((PACKED_AT_ONCE * k.len()).max(1)).enumerate().collect();
    let task = |(task, to): (usize, &mut [Row])| {
        let start = columns.start + task * PACKED_AT_ONCE * WIDE;
        pack_right(right, start..columns.end.min(start + PACKED_AT_ONCE * WIDE), k.clone(), to);
    };
    if is_shared { pool::run(tasks, task) } else { tasks.into_iter().for_each(task) }
}

multiversion! {
    fn pack_left(operand: Operand<'_>, range: Range<usize>, k: Range<usize>, to: &mut [Column]) = pack_left_body;
}
multiversion! {
    fn pack_right(operand: Operand<'_>, range: Range<usize>, k: Range<usize>, to: &mut [Row]) = pack_right_body;
}

#[inline(always)]
fn pack_left_body<S: Simd, const ROWS: usize>(
    operand: Operand<'_>,
    range: Range<usize>,
    k: Range<usize>,
    to: &mut [Column],
) {
    pack_panels(operand, range, k, to);
}

#[inline(always)]
fn pack_right_body<S: Simd, const ROWS: usize>(
    operand: Operand<'_>,
    range: Range<usize>,
    k: Range<usize>,
    to: &mut [Row],
) {
    pack_panels(operand, range, k, to);
}

#[inline(always)]
fn pack_panels<const WIDTH: usize>(
    operand: Operand<'_>,
    range: Range<usize>,
    k: Range<usize>,
    to: &mut [[f32; WIDTH]],
) {
    if operand.across == 1 {
        // A step of k of all panels, as they lie in memory, before the next one.
        for step in 0..k.len() {
            let from = &operand.elements[(k.start + step) * operand.along + range.start..][..range.len()];
            let (whole, rest) = from.as_chunks::<WIDTH>();
            for (panel, from) in whole.iter().enumerate() {
                to[panel * k.len() + step] = *from;
            }
            if !rest.is_empty() {
                let to = &mut to[whole.len() * k.len() + step];
                to.fill(0.0);
                to[..rest.len()].copy_from_slice(rest);
            }
        }
        return;
    }
    for (panel, to) in to.chunks_mut(k.len().max(1)).enumerate() {
        let start = range.start + panel * WIDTH;
        pack_rows(operand, start..range.end.min(start + WIDTH), k.clone(), to);
    }
}

/// Packs a panel of which every row or column lies one number after another in memory.
#[inline(always)]
fn pack_rows<const WIDTH: usize>(
    Operand { elements, across, .. }: Operand<'_>,
    range: Range<usize>,
    k: Range<usize>,
    to: &mut [[f32; WIDTH]],
) {
    if range.len() < WIDTH {
        to.as_flattened_mut().fill(0.0);
    }
    let row = |place: usize| &elements[place * across + k.start..][..k.len()];
    let mut place = 0;
    while place + SQUARE <= range.len() {
        let rows: [_; SQUARE] = std::array::from_fn(|i| row(range.start + place + i).as_chunks::<SQUARE>());
        let (squares, rest) = to.split_at_mut(rows[0].0.len() * SQUARE);
        for (number, to) in squares.as_chunks_mut::<SQUARE>().0.iter_mut().enumerate() {
            let square = transpose([rows[0].0[number], rows[1].0[number], rows[2].0[number], rows[3].0[number]]);
            for (to, row) in to.iter_mut().zip(square) {
                to[place..][..SQUARE].copy_from_slice(&row);
            }
        }
        for (number, to) in rest.iter_mut().enumerate() {
            for (to, row) in to[place..].iter_mut().zip(&rows) {
                *to = row.1[number];
            }
        }
        place += SQUARE;
    }
    for place in place..range.len() {
        for (to, from) in to.iter_mut().zip(row(range.start + place)) {
            to[place] = *from;
        }
    }
}

/// Rows and columns that are transposed together, in registers.
const SQUARE: usize = 4;

/// Makes these columns of the result, or adds a block of k to them. Each task packs its rows of the left operand itself.
fn make_tiles(
    left: Operand<'_>,
    right: &[Row],
    k: &Range<usize>,
    factors: (f32, f32),
    columns: &Range<usize>,
    out: &Output<'_>,
) {
    thread_local!(static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    let is_shared = out.rows * columns.len() * k.len() >= SMALLEST_SHARED;
    let down = out.rows.div_ceil(TASK_ROWS);
    // Rows are enough for all threads, or else columns are cut, too: that changes no bit.
    let wanted = if is_shared { (2 * pool::threads()).div_ceil(down) } else { 1 };
    let width = columns.len().div_ceil(wanted).max(TASK_COLUMNS).next_multiple_of(WIDE);
    let tasks = down * columns.len().div_ceil(width);
    let task = |number: usize| {
        let (row, column) = (number % down * TASK_ROWS, number / down * width);
        let right = &right[column / WIDE * k.len()..];
        let rows = row..out.rows.min(row + TASK_ROWS);
        let tile = [rows.clone(), columns.start + column..columns.end.min(columns.start + column + width)];
        LEFT.with_borrow_mut(|memory| {
            let packed = packed(memory, rows.len().div_ceil(PANEL) * k.len());
            pack_left(left, rows, k.clone(), packed);
            make_tile(packed, right, k.len(), factors, &tile, out);
        });
    };
    if is_shared { pool::parallel_for(tasks, &task) } else { (0..tasks).for_each(task) }
}

multiversion! {
    fn make_tile(left: &[Column], right: &[Row], depth: usize, factors: (f32, f32), tile: &[Range<usize>; 2], out: &Output<'_>) = make_tile_body;
}

/// No two tasks make tiles that have an element in common at a time.
#[inline(always)]
fn make_tile_body<S: Simd, const ROWS: usize>(
    left: &[Column],
    right: &[Row],
    depth: usize,
    factors: (f32, f32),
    [rows, columns]: &[Range<usize>; 2],
    out: &Output<'_>,
) {
    for (panel, column) in columns.clone().step_by(WIDE).enumerate() {
        let right = &right[panel * depth..][..depth];
        let columns = column..columns.end.min(column + WIDE);
        for (panel, row) in rows.clone().step_by(PANEL).enumerate() {
            let left = &left[panel * depth..][..depth];
            let [first, second] = [0, 1].map(|half| columns.start + half * LANES);
            let halves = [first..columns.end.min(second), second..columns.end];
            let rows = row..rows.end;
            // As many sums at a time as there are registers for.
            match ROWS {
                8 if columns.len() > LANES => {
                    make_panel::<S, PANEL, 2>(left, right, 0, factors, (&rows, &columns), out)
                }
                8 => make_panel::<S, PANEL, 1>(left, right, 0, factors, (&rows, &columns), out),
                2 => {
                    for (half, columns) in halves.iter().enumerate().filter(|(_, columns)| !columns.is_empty()) {
                        make_panel::<S, 6, 1>(left, right, half, factors, (&rows, columns), out);
                    }
                }
                _ => {
                    for (half, columns) in halves.iter().enumerate().filter(|(_, columns)| !columns.is_empty()) {
                        make_panel::<S, 2, 1>(left, right, half, factors, (&rows, columns), out);
                    }
                }
            }
        }
    }
}

/// The products of a panel of the left operand and some vectors of a panel of the right one.
#[inline(always)]
fn make_panel<S: Simd, const ROWS: usize, const VECTORS: usize>(
    left: &[Column],
    right: &[Row],
    first_vector: usize,
    (alpha, beta): (f32, f32),
    (rows, columns): (&Range<usize>, &Range<usize>),
    out: &Output<'_>,
) {
    for first in (0..PANEL.min(rows.len())).step_by(ROWS) {
        let rows = rows.start + first..rows.end.min(rows.start + first + ROWS);
        for row in rows.clone() {
            // SAFETY: a part of this task's tile, which lies in the result.
            prefetch(unsafe { out.part(row, columns.clone()) });
        }
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        for (left, right) in left.iter().zip(right) {
            let right: [_; VECTORS] = std::array::from_fn(|v| S::load(&right.as_chunks().0[first_vector + v]));
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = S::splat(left[first + i]);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = S::madd(left, right, *sum);
                }
            }
        }
        for (row, sums) in rows.zip(sums) {
            // SAFETY: as above.
            let to = unsafe { out.part(row, columns.clone()) };
            match to.as_chunks_mut::<LANES>() {
                (whole, []) => write::<S, VECTORS>(alpha, beta, sums, whole),
                _ => {
                    let mut whole = [[0.0; LANES]; VECTORS];
                    whole.as_flattened_mut()[..to.len()].copy_from_slice(to);
                    write::<S, VECTORS>(alpha, beta, sums, &mut whole);
                    to.copy_from_slice(&whole.as_flattened()[..to.len()]);
                }
            }
        }
    }
}

#[inline(always)]
fn write<S: Simd, const VECTORS: usize>(alpha: f32, beta: f32, sums: [S::Vector; VECTORS], to: &mut [[f32; LANES]]) {
    // x + -0.0 is x, whatever x is.
    let nothing = S::splat(-0.0);
    for (sum, to) in sums.into_iter().zip(to) {
        let there = if beta == 0.0 { nothing } else { S::madd(S::splat(beta), S::load(to), nothing) };
        S::store(S::madd(S::splat(alpha), sum, there), to);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::tests::{assert_close_above, random};

    /// Numbers of a matrix `[rows, columns]`, row-major with this stride, or of its transpose.
    struct Matrix {
        elements: Vec<f32>,
        stride: usize,
        is_transposed: bool,
    }

    impl Matrix {
        fn new(rows: usize, columns: usize, gap: usize, is_transposed: bool, draw: &mut impl FnMut() -> f32) -> Self {
            let (outer, inner) = if is_transposed { (columns, rows) } else { (rows, columns) };
            let elements = (0..outer * (inner + gap)).map(|_| draw()).collect();
            Self { elements, stride: inner + gap, is_transposed }
        }

        fn at(&self, row: usize, column: usize) -> f32 {
            let (outer, inner) = if self.is_transposed { (column, row) } else { (row, column) };
            self.elements[outer * self.stride + inner]
        }

        fn operand(&self, is_left: bool) -> Operand<'_> {
            let (across, along) = if self.is_transposed == is_left { (1, self.stride) } else { (self.stride, 1) };
            Operand { elements: &self.elements, across, along }
        }
    }

    fn product(left: &Matrix, right: &Matrix, [m, n, k]: [usize; 3]) -> Vec<f32> {
        let mut out = vec![f32::NAN; m * n];
        // SAFETY: the memory of a vector that nothing else uses.
        let to = unsafe { Output::new(out.as_mut_ptr(), n, m, n) };
        multiply(left.operand(true), right.operand(false), k, 1.0, 0.0, &to);
        out
    }

    /// The products of some shapes on this machine.
    pub fn example() -> Vec<f32> {
        let mut random = random(5);
        let shapes = [[130, 77, 300], [300, 600, 64], [5, 1000, 513]];
        let of = |[m, n, k]: [usize; 3]| {
            let left = Matrix::new(m, k, 0, false, &mut random);
            let right = Matrix::new(k, n, 0, true, &mut random);
            product(&left, &right, [m, n, k])
        };
        shapes.map(of).concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn products_are_those_of_the_formula(
            m in 1usize..150, n in 1usize..150, k in 0usize..600, turned in any::<(bool, bool)>(), gap in 0usize..3,
            factors in prop::sample::select(vec![(1.0f32, 0.0f32), (1.0, 1.0), (0.5, 2.0)]), seed in any::<u32>(),
        ) {
            let mut random = random(seed);
            let left = Matrix::new(m, k, gap, turned.0, &mut random);
            let right = Matrix::new(k, n, gap, turned.1, &mut random);
            // Numbers beside the result stay as they are.
            let stride = n + gap;
            let mut out: Vec<f32> = (0..m * stride).map(|_| random()).collect();
            if factors.1 == 0.0 {
                out.iter_mut().enumerate().filter(|(place, _)| place % stride < n).for_each(|(_, number)| *number = f32::NAN);
            }
            let before = out.clone();
            // SAFETY: the memory of a vector that nothing else uses.
            let to = unsafe { Output::new(out.as_mut_ptr(), stride, m, n) };
            multiply(left.operand(true), right.operand(false), k, factors.0, factors.1, &to);
            let mut expected = Vec::new();
            for (place, (number, before)) in out.iter().zip(&before).enumerate() {
                let (row, column) = (place / stride, place % stride);
                if column >= n {
                    prop_assert_eq!(number.to_bits(), before.to_bits());
                    expected.push(f64::from(*before));
                    continue;
                }
                let sum: f64 = (0..k).map(|k| f64::from(left.at(row, k)) * f64::from(right.at(k, column))).sum();
                let there = if factors.1 == 0.0 { 0.0 } else { f64::from(factors.1) * f64::from(*before) };
                expected.push(f64::from(factors.0) * sum + there);
            }
            assert_close_above(&out, &expected, 1.0, 1e-5);
        }

        #[test]
        fn an_element_depends_on_its_row_and_its_column_alone(
            m in 1usize..400, n in 1usize..600, k in 1usize..700, turned in any::<(bool, bool)>(), seed in any::<u32>(),
        ) {
            let mut random = random(seed);
            let left = Matrix::new(m, k, 0, turned.0, &mut random);
            let right = Matrix::new(k, n, 0, turned.1, &mut random);
            let all = product(&left, &right, [m, n, k]);
            let (row, column) = (seed as usize % m, seed as usize / 7 % n);
            let mut take = {
                let mut place = 0;
                move || { place += 1; left.at(row, place - 1) }
            };
            let one_row = Matrix::new(1, k, 0, false, &mut take);
            let mut take = {
                let (mut place, right) = (0, &right);
                move || { place += 1; right.at(place - 1, column) }
            };
            let one_column = Matrix::new(k, 1, 0, false, &mut take);
            let alone = product(&one_row, &one_column, [1, 1, k]);
            prop_assert_eq!(alone[0].to_bits(), all[row * n + column].to_bits());
        }
    }

    #[test]
    fn blocks_of_rows_columns_and_k_meet_without_a_seam() {
        let (m, n, k) = (TASK_ROWS * 3 + 9, COLUMNS + 33, DEPTH + 3);
        let ones = Matrix::new(m, k, 0, false, &mut || 1.0);
        let mut row = 0;
        let right = Matrix::new(k, n, 0, true, &mut || {
            row += 1;
            ((row - 1) / k % 1000) as f32
        });
        let out = product(&ones, &right, [m, n, k]);
        assert!(out.iter().enumerate().all(|(place, &sum)| sum == (place % n % 1000 * k) as f32));
    }
}
