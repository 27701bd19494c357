//! MLX's vectors of arrays.

use mlx_rs::Array;
use mlx_sys::{mlx_array, mlx_vector_array};

/// A vector of MLX's, which the caller frees.
pub fn vector(arrays: &[Array]) -> mlx_vector_array {
    let pointers: Vec<mlx_array> = arrays.iter().map(Array::as_ptr).collect();
    // SAFETY: as many handles as are given, all alive; MLX counts a reference for each.
    unsafe { mlx_sys::mlx_vector_array_new_data(pointers.as_ptr(), pointers.len()) }
}

/// # Safety
/// The vector is alive.
pub unsafe fn elements(vector: mlx_vector_array) -> Vec<Array> {
    // SAFETY: the caller's promise; each handle is filled and then owned by one `Array`.
    unsafe {
        let get = |index| {
            let mut array = mlx_sys::mlx_array_new();
            mlx_sys::mlx_vector_array_get(&raw mut array, vector, index);
            Array::from_ptr(array)
        };
        (0..mlx_sys::mlx_vector_array_size(vector)).map(get).collect()
    }
}
