//! Writes `bindings.rs`, the Rust view of mlx-c: `mlx-bindings <mlx-c directory> <output file> [clang argument...]`.
//!
//! The options are those of mlx-sys's `bindgen_config.rs`. `cargo xtask setup` runs this, since on Linux that
//! crate's build script cannot run.

use std::{env, error::Error, fs, path::Path};

/// mlx-c's half-precision types and functions, which its headers declare only where C has such types.
///
/// The header that would declare them is left out on every processor, so that all see these: plain 16-bit storage,
/// which mlx-rs turns into the types of the `half` crate.
const HALF_TYPES: &str = r#"
#[repr(transparent)]
#[derive(Debug, Default, Clone, Copy)]
pub struct __BindgenFloat16(pub u16);
pub type float16_t = __BindgenFloat16;
pub type bfloat16_t = u16;
unsafe extern "C" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(mlx_c), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: mlx-bindings <mlx-c directory> <output file> [clang argument...]".into());
    };

    let mut headers: Vec<_> = fs::read_dir(Path::new(&mlx_c).join("mlx/c"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    headers.retain(|path| path.extension().is_some_and(|extension| extension == "h"));
    headers.sort();

    headers
        .iter()
        .fold(bindgen::builder(), |builder, header| builder.header(header.to_string_lossy()))
        .rust_target(bindgen::RustTarget::stable(73, 0).map_err(|error| error.to_string())?)
        // The guard of mlx-c's half.h: defined beforehand, the header is empty.
        .clang_args([format!("-I{mlx_c}"), "-DMLX_HALF_H".to_owned()])
        .clang_args(arguments)
        .blocklist_function("malloc")
        .blocklist_function("realloc")
        .formatter(bindgen::Formatter::None)
        .generate()?
        .write_to_file(&output)?;

    let mut bindings = fs::read_to_string(&output)?;
    bindings.push_str(HALF_TYPES);
    fs::write(&output, bindings)?;
    Ok(())
}
