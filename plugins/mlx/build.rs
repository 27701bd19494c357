//! Compiles the fused CPU primitives in `native/primitives/` against MLX's C++ headers, where MLX is a shared library (Linux; not
//! macOS). `native/libmlxc/` is compiled by `cargo xtask setup`.

use std::ffi::OsString;
use std::path::Path;

const SOURCES: [&str; 20] = [
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
    "plan.cpp",
    "primitive.cpp",
    "product.cpp",
    "quantized.cpp",
    "rms_norm.cpp",
    "rope.cpp",
    "sum.cpp",
    "swiglu.cpp",
    "tiles.cpp",
    "token_losses.cpp",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(mdt_native)");
    println!("cargo::rerun-if-env-changed=DEP_MLX_LIB");
    println!("cargo::rerun-if-env-changed=DEP_MLX_INCLUDE");
    println!("cargo::rerun-if-changed=native/primitives");
    // The links override of the Linux set-up gives this key; mlx-sys's own build, on macOS, does not.
    let Some(lib) = std::env::var_os("DEP_MLX_LIB") else { return };
    println!("cargo::rustc-cfg=mdt_native");
    // First as `dist/` has it, plugins next to lib; then as it lies in the Cargo tree.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", Path::new(&lib).display());

    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).warnings(true).extra_warnings(true);
    for folder in std::env::split_paths(&std::env::var_os("DEP_MLX_INCLUDE").unwrap_or_default()) {
        // As system headers: their warnings are not ours to mend.
        build.flag("-isystem").flag(&folder);
        // Assertions in headers name their files; the folder of this build is of no use to whoever reads them.
        let mut unnamed = OsString::from("-ffile-prefix-map=");
        unnamed.push(&folder);
        unnamed.push("=mlx");
        build.flag(unnamed);
    }
    for define in std::env::var("DEP_MLX_DEFINES").unwrap_or_default().split_whitespace() {
        build.define(define, None);
    }
    build.files(SOURCES.map(|source| Path::new("native/primitives").join(source)));
    build.compile("mdt_mlx_native");
    // After the archive that needs it.
    println!("cargo::rustc-link-search=native={}", Path::new(&lib).display());
    println!("cargo::rustc-link-lib=dylib=mlxc");
    println!("cargo::rustc-link-lib=dylib=mlx");
}
