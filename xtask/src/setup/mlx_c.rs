//! Compiles mlx-c, and the native files of this project, into `lib/libmlxc.so`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use super::Folders;
use crate::{
    Result, command,
    files::{files, remove_folder},
    system,
};

/// mlx-c only passes calls on: more optimisation takes longer to compile and gains nothing.
const FLAGS: [&str; 4] = ["-std=c++20", "-O1", "-fPIC", "-fvisibility-inlines-hidden"];

/// Compiles and links the library.
pub fn build(folders: &Folders) -> Result<()> {
    check_versions(folders)?;
    let objects = compile(folders)?;
    link(folders, &objects)
}

/// The wheel must have the version that mlx-c was written for.
fn check_versions(folders: &Folders) -> Result<()> {
    let cmake = fs::read_to_string(folders.mlx_c.join("CMakeLists.txt"))?;
    let wanted = cmake.lines().find_map(|line| line.trim().strip_prefix("GIT_TAG v")).unwrap_or("unknown");
    let wanted = wanted.trim_end_matches(')');
    let found = mlx_version(folders)?;
    if wanted == found {
        return Ok(());
    }
    Err(format!(
        "mlx-c needs MLX {wanted}, xtask/wheels/mlx.txt pins mlx-cpu=={found}: change it together with mlx-sys"
    )
    .into())
}

/// The version of MLX that the requirements pin.
pub fn mlx_version(folders: &Folders) -> Result<String> {
    let requirements = fs::read_to_string(folders.wheels.join("mlx.txt"))?;
    let pin = requirements.lines().find_map(|line| line.strip_prefix("mlx-cpu=="));
    let version = pin.and_then(|pin| pin.split_whitespace().next());
    Ok(version.ok_or("xtask/wheels/mlx.txt pins no mlx-cpu")?.to_owned())
}

/// Compiles mlx-c and every source of our own, all at the same time; returns the objects.
fn compile(folders: &Folders) -> Result<Vec<PathBuf>> {
    let object_folder = folders.out.join("obj");
    remove_folder(&object_folder)?;
    fs::create_dir_all(&object_folder)?;
    let mut sources = vec![whole_mlx_c(folders, &object_folder)?];
    sources.extend(sources_in(&folders.native)?);

    thread::scope(|scope| {
        let start = |source: PathBuf| scope.spawn(|| compile_one(folders, source).map_err(|error| error.to_string()));
        let compilers: Vec<_> = sources.into_iter().map(start).collect();
        compilers
            .into_iter()
            .map(|compiler| Ok(compiler.join().map_err(|_| "a thread that compiles panicked")??))
            .collect()
    })
}

/// Writes one source that includes all of mlx-c: nearly all the time of each goes into reading MLX's headers, so one
/// compilation takes a tenth of the time of twenty-five.
fn whole_mlx_c(folders: &Folders, object_folder: &Path) -> Result<PathBuf> {
    let includes: String = sources_in(&folders.mlx_c.join("mlx/c"))?
        .iter()
        .map(|source| format!("#include \"{}\"\n", source.display()))
        .collect();
    let whole = object_folder.join("mlx_c.cpp");
    fs::write(&whole, includes)?;
    Ok(whole)
}

fn sources_in(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(files(folder)?.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "cpp")).collect())
}

fn compile_one(folders: &Folders, source: PathBuf) -> Result<PathBuf> {
    let stem = source.file_stem().unwrap_or_default();
    let object = folders.out.join("obj").join(stem).with_extension("o");
    // MLX's error messages name mlx-c's files: by their place in mlx-c, not on this machine.
    let mut prefix = OsString::from("-ffile-prefix-map=");
    prefix.push(&folders.mlx_c);
    prefix.push("/=");
    let mut compiler = Command::new(system::cxx());
    compiler.args(FLAGS).arg(prefix).arg("-include").arg(folders.native.join("format.h"));
    compiler.arg("-isystem").arg(folders.mlx_include()).arg("-I").arg(&folders.mlx_c);
    compiler.arg("-c").arg(&source).arg("-o").arg(&object);
    command::output(&mut compiler)?;
    Ok(object)
}

/// Links `libmlxc.so`, which finds the libraries it needs in its own folder.
fn link(folders: &Folders, objects: &[PathBuf]) -> Result<()> {
    let lib = folders.lib();
    let partial = folders.out.join("libmlxc.so.partial");
    let mut linker = Command::new(system::cxx());
    linker.args(["-shared", "-Wl,-soname,libmlxc.so", "-Wl,-z,defs"]);
    linker.args(["-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN"]).args(objects);
    linker.arg("-L").arg(&lib).arg("-Wl,-rpath-link").arg(&lib);
    linker.args(["-lmlx", "-lscipy_openblas", "-o"]).arg(&partial);
    command::output(&mut linker)?;
    // Renamed into place: a program that runs with the old library keeps it.
    Ok(fs::rename(partial, lib.join("libmlxc.so"))?)
}
