//! Compiles mlx-c, and the few native files of our own, into `lib/libmlxc.so`.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use super::{Folders, hash_file, hash_folder};
use crate::{Result, command, files::files, system};

/// mlx-c only passes calls on, so more than this costs compile time and brings nothing.
const FLAGS: [&str; 4] = ["-std=c++20", "-O1", "-fPIC", "-fvisibility-inlines-hidden"];
/// A compilation takes about half a gigabyte, so the number at a time is held down on machines with many cores.
const MOST_AT_A_TIME: usize = 4;

/// Compiles what has changed and links the library.
pub fn build(folders: &Folders) -> Result<()> {
    check_versions(folders)?;
    let objects = compile(folders)?;
    link(folders, &objects)
}

/// The wheel must be the very version that mlx-c was written for.
fn check_versions(folders: &Folders) -> Result<()> {
    let cmake = fs::read_to_string(folders.mlx_c.join("CMakeLists.txt"))?;
    let wanted = cmake.lines().find_map(|line| line.trim().strip_prefix("GIT_TAG v")).unwrap_or("unknown");
    let wanted = wanted.trim_end_matches(')');
    let found = mlx_version(folders)?;
    if wanted == found {
        return Ok(());
    }
    Err(format!(
        "mlx-c needs MLX {wanted}, xtask/native/requirements.txt pins mlx-cpu=={found}: change it together with mlx-sys"
    )
    .into())
}

/// The version of MLX that the requirements pin.
pub fn mlx_version(folders: &Folders) -> Result<String> {
    let requirements = fs::read_to_string(folders.native.join("requirements.txt"))?;
    let pin = requirements.lines().find_map(|line| line.strip_prefix("mlx-cpu=="));
    let version = pin.and_then(|pin| pin.split_whitespace().next());
    Ok(version.ok_or("xtask/native/requirements.txt pins no mlx-cpu")?.to_owned())
}

/// Compiles every source that has no object of the same content yet; returns all objects.
fn compile(folders: &Folders) -> Result<Vec<PathBuf>> {
    let object_folder = folders.out.join("obj");
    fs::create_dir_all(&object_folder)?;
    let mut sources = files(&folders.mlx_c.join("mlx/c"))?;
    sources.extend(files(&folders.native)?);
    sources.retain(|source| source.extension().is_some_and(|extension| extension == "cpp"));
    // The largest take longest, so they start first.
    sources.sort_by_key(|source| std::cmp::Reverse(fs::metadata(source).map_or(0, |data| data.len())));

    let mut objects = Vec::new();
    let mut missing = Vec::new();
    for source in sources {
        let object = object_folder.join(object_name(folders, &source)?);
        if !object.exists() {
            missing.push((source, object.clone()));
        }
        objects.push(object);
    }
    remove_others(&object_folder, &objects)?;

    missing.reverse();
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MOST_AT_A_TIME);
    let missing = Mutex::new(missing);
    let next = || missing.lock().ok().and_then(|mut missing| missing.pop());
    let work = || -> std::result::Result<(), String> {
        while let Some((source, object)) = next() {
            compile_one(folders, &source, &object).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| "a compiling thread panicked")??;
        }
        Ok(objects)
    })
}

/// The compiler's command line for `source`, without the name of the object.
fn compiler(folders: &Folders, source: &Path) -> Command {
    // MLX's error messages name mlx-c's files: by their place in mlx-c, not on this machine.
    let mut prefix = OsString::from("-ffile-prefix-map=");
    prefix.push(&folders.mlx_c);
    prefix.push("/=");
    let mut compiler = Command::new(system::cxx());
    compiler.args(FLAGS).arg(prefix).arg("-include").arg(folders.native.join("format.h"));
    compiler.arg("-isystem").arg(folders.mlx_include()).arg("-I").arg(&folders.mlx_c);
    compiler.arg("-c").arg(source);
    compiler
}

fn compile_one(folders: &Folders, source: &Path, object: &Path) -> Result<()> {
    // Written beside and renamed, so that an interrupted compilation leaves no half object under the final name.
    let partial = object.with_extension("partial");
    command::output(compiler(folders, source).arg("-o").arg(&partial))?;
    Ok(fs::rename(partial, object)?)
}

/// A name that changes with the source, the headers and the command line.
fn object_name(folders: &Folders, source: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let compiler = compiler(folders, source);
    (compiler.get_program(), compiler.get_args().collect::<Vec<_>>()).hash(&mut hasher);
    hash_file(source, &mut hasher)?;
    for header in ["format.h", "requirements.txt"] {
        hash_file(&folders.native.join(header), &mut hasher)?;
    }
    hash_folder(&folders.mlx_c.join("mlx/c/private"), &mut hasher)?;
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    Ok(format!("{stem}-{:016x}.o", hasher.finish()))
}

fn remove_others(folder: &Path, keep: &[PathBuf]) -> Result<()> {
    let keep: HashSet<_> = keep.iter().collect();
    for file in files(folder)? {
        if !keep.contains(&file) {
            fs::remove_file(file)?;
        }
    }
    Ok(())
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
