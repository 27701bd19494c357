//! Embedding look-up, and its gradient: rows of the cotangent added to the rows of the table that they came from.

use super::pool;

/// `out[i] = table[ids[i]]`, `width` values a row. An id outside the table gives NaN, which the non-finite guard then reports.
pub fn forward(table: &[f32], ids: &[i32], width: usize, out: &mut [f32]) {
    if width == 0 || ids.is_empty() {
        return;
    }
    let block = 64;
    pool::run(ids.chunks(block).zip(out.chunks_mut(block * width)).collect(), |(ids, out)| {
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(width)) {
            let row = usize::try_from(id).ok().and_then(|id| table.chunks_exact(width).nth(id));
            match row {
                Some(row) => out.copy_from_slice(row),
                None => out.fill(f32::NAN),
            }
        }
    });
}

/// The sum of the rows `cotangent[i]` of each id, in the order of i, in `grad[ids[i]]`, over zeros or, if `onto`, added to what is
/// there; `width` values a row. An id outside the table is passed over.
///
/// Each task owns some rows of the table and finds their ids sorted, so equal ids need no lock and add up in a fixed order.
pub fn backward(ids: &[i32], cotangent: &[f32], width: usize, grad: &mut [f32], onto: bool) {
    if width == 0 || grad.is_empty() {
        return;
    }
    let rows = grad.len() / width;
    // Counting sort by table row: then each task owns a range of the table and finds its ids together.
    let mut start = vec![0u32; rows + 1];
    let valid = |id: i32| usize::try_from(id).ok().filter(|&id| id < rows);
    for id in ids.iter().filter_map(|&id| valid(id)) {
        start[id + 1] += 1;
    }
    for row in 0..rows {
        start[row + 1] += start[row];
    }
    let mut order = vec![0u32; start[rows] as usize];
    let mut next = start.clone();
    for (position, id) in ids.iter().enumerate().filter_map(|(position, &id)| Some((position, valid(id)?))) {
        order[next[id] as usize] = position as u32;
        next[id] += 1;
    }
    let block = 256;
    pool::run(grad.chunks_mut(block * width).enumerate().collect(), |(number, grad)| {
        let mut total = vec![0.0; width];
        for (row, grad) in grad.chunks_exact_mut(width).enumerate() {
            let row = number * block + row;
            let positions = &order[start[row] as usize..start[row + 1] as usize];
            if !onto {
                grad.fill(0.0);
                add_rows(positions, cotangent, grad);
            } else if !positions.is_empty() {
                // The sum first, as it would be without anything there: the same bits.
                total.fill(0.0);
                add_rows(positions, cotangent, &mut total);
                grad.iter_mut().zip(&total).for_each(|(grad, total)| *grad += total);
            }
        }
    });
}

/// Adds rows at these positions to `sum`, one after another.
fn add_rows(positions: &[u32], rows: &[f32], sum: &mut [f32]) {
    let width = sum.len();
    for &position in positions {
        let from = &rows[position as usize * width..][..width];
        sum.iter_mut().zip(from).for_each(|(sum, value)| *sum += value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_rows_up_and_marks_ids_outside_the_table() {
        let table: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut out = [0.0; 12];
        forward(&table, &[3, 0, 4, -1], 3, &mut out);
        assert_eq!(out[..6], [9.0, 10.0, 11.0, 0.0, 1.0, 2.0]);
        assert!(out[6..].iter().all(|x| x.is_nan()));
    }

    #[test]
    fn equal_ids_add_up_and_absent_ones_stay_zero() {
        let mut random = crate::kernels::tests::random(3);
        let (rows, width, count) = (700, 12, 3000);
        let ids: Vec<i32> = (0..count).map(|i| (i * i % 613) as i32).collect();
        let cotangent: Vec<f32> = (0..count * width).map(|_| random()).collect();
        let mut want = vec![0.0; rows * width];
        for (id, row) in ids.iter().zip(cotangent.chunks(width)) {
            for (sum, value) in want[*id as usize * width..].iter_mut().zip(row) {
                *sum += value;
            }
        }
        let mut grad = vec![f32::NAN; rows * width];
        backward(&ids, &cotangent, width, &mut grad, false);
        assert_eq!(grad, want);
        let mut onto: Vec<f32> = (0..rows * width).map(|_| random()).collect();
        let sum: Vec<f32> = onto.iter().zip(&want).map(|(there, added)| there + added).collect();
        backward(&ids, &cotangent, width, &mut onto, true);
        assert_eq!(onto, sum);
    }
}
