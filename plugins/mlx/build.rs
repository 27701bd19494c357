//! Compiles the fused CPU primitives in `native/primitives/` against MLX's C++ headers, where MLX is a shared library (Linux; not
//! macOS), and names the sources of the plugin in its file. `native/libmlxc/` is compiled by `cargo xtask setup`.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs};

const SOURCES: [&str; 24] = [
    "add.cpp",
    "attention.cpp",
    "convert.cpp",
    "cross_entropy.cpp",
    "embedding.cpp",
    "ffi.cpp",
    "function.cpp",
    "grouped_linear.cpp",
    "half.cpp",
    "indices.cpp",
    "linear.cpp",
    "memory.cpp",
    "plan.cpp",
    "primitive.cpp",
    "product.cpp",
    "quantized.cpp",
    "rms_norm.cpp",
    "rope.cpp",
    "sum.cpp",
    "swiglu.cpp",
    "tile_attention.cpp",
    "tile_attention_backward.cpp",
    "tiles.cpp",
    "token_losses.cpp",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(mdt_native)");
    println!("cargo::rerun-if-env-changed=DEP_MLX_LIB");
    println!("cargo::rerun-if-env-changed=DEP_MLX_INCLUDE");
    mdt_plugin_sources::declare(&["native", "../../xtask/wheels"])?;
    // The links override of the Linux set-up gives this key; mlx-sys's own build, on macOS, does not.
    let Some(lib) = env::var_os("DEP_MLX_LIB") else { return Ok(()) };
    println!("cargo::rustc-cfg=mdt_native");
    // First as `dist/` has it, plugins next to lib; then as it lies in the Cargo tree.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", Path::new(&lib).display());
    compile()?;
    // After the archive that needs it.
    println!("cargo::rustc-link-search=native={}", Path::new(&lib).display());
    println!("cargo::rustc-link-lib=dylib=mlxc");
    println!("cargo::rustc-link-lib=dylib=mlx");
    Ok(())
}

/// Compiles the primitives, unless they are as they were: this script runs after every change of the plugin.
fn compile() -> Result<(), Box<dyn Error>> {
    let includes = env::var_os("DEP_MLX_INCLUDE").unwrap_or_default();
    let defines = env::var("DEP_MLX_DEFINES").unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("Cargo sets OUT_DIR")?);
    let stamp = out.join("compiled");
    let inputs = format!("{} {includes:?} {defines}", mdt_plugin_sources::digest(&["build.rs", "native/primitives"])?);
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&inputs) {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++20").opt_level(2).warnings(true).extra_warnings(true).cargo_metadata(false);
        for folder in env::split_paths(&includes) {
            // As system headers: their warnings are not ours to mend.
            build.flag("-isystem").flag(&folder);
            // Assertions in headers name their files; the folder of this build is of no use to whoever reads them.
            let mut unnamed = OsString::from("-ffile-prefix-map=");
            unnamed.push(&folder);
            unnamed.push("=mlx");
            build.flag(unnamed);
        }
        for define in defines.split_whitespace() {
            build.define(define, None);
        }
        build.files(SOURCES.map(|source| Path::new("native/primitives").join(source)));
        build.try_compile("mdt_mlx_native")?;
        fs::write(stamp, inputs)?;
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=mdt_mlx_native");
    println!("cargo::rustc-link-lib=dylib=stdc++");
    Ok(())
}
