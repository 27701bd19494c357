//! `cargo xtask setup` through the real program, in a small workspace whose compiler, Cargo and Python are scripts.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CARGO: &str = r#"case "$1" in
metadata) echo "{\"packages\":[{\"name\":\"mlx-sys\",\"version\":\"1\",\"manifest_path\":\"$ROOT/mlx-sys/Cargo.toml\"}],\"target_directory\":\"$ROOT/target\"}" ;;
run) for word; do case "$word" in *bindings.rs) echo "// bindings" > "$word" ;; esac; done ;;
esac"#;

const CXX: &str = r#"while [ $# -gt 0 ]; do [ "$1" = -o ] && echo compiled > "$2"; shift; done; exit 0"#;

/// `-m pip download … --dest DIR --requirement FILE` and `-m zipfile -e WHEEL DIR`.
const PYTHON: &str = r#"case "$2 $3" in
"pip download")
    [ -n "$NO_NETWORK" ] && { echo "no route to the index" >&2; exit 1; }
    while [ "$1" != --dest ]; do shift; done
    mkdir -p "$2" && echo wheel > "$2/mlx.whl" ;;
"zipfile -e")
    mkdir -p "$5/mlx/lib" "$5/mlx_cpu.libs" "$5/scipy_openblas32/lib" "$5/mlx_cpu-1.dist-info/licenses"
    mkdir -p "$5/scipy_openblas32-1.dist-info/licenses"
    touch "$5/mlx_cpu-1.dist-info/licenses/LICENSE" "$5/scipy_openblas32-1.dist-info/licenses/LICENSE.txt"
    printf '%s\0rest' "${RUN_PATH-\$ORIGIN/../../mlx_cpu.libs}" > "$5/mlx/lib/libmlx.so"
    echo blas > "$5/mlx_cpu.libs/libblas.so"
    echo openblas > "$5/scipy_openblas32/lib/libscipy_openblas.so" ;;
esac"#;

/// A workspace with what the set-up reads, and scripts in the places of its tools.
struct Workspace(PathBuf);

impl Workspace {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        let workspace = Self(root);
        for file in ["xtask/src/setup/step.rs", "xtask/bindings/src/main.rs", "xtask/wheels/libclang.txt"] {
            workspace.write(file, "");
        }
        workspace.write("xtask/wheels/mlx.txt", "mlx-cpu==1\n");
        workspace.write("plugins/mlx/native/libmlxc/blas.cpp", "");
        workspace.write("mlx-sys/src/mlx-c/mlx/c/array.cpp", "");
        workspace.write("mlx-sys/src/mlx-c/CMakeLists.txt", "GIT_TAG v1)\n");
        for (tool, script) in [("cargo", CARGO), ("c++", CXX), ("python3", PYTHON)] {
            let path = workspace.write(&format!("tools/{tool}"), &format!("#!/bin/sh\n{script}\n"));
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        workspace
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn write(&self, file: &str, content: &str) -> PathBuf {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn setup(&self, environment: &[(&str, &str)]) -> Output {
        let tools = self.path("tools");
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("setup")
            .env("CARGO_MANIFEST_DIR", self.path("xtask"))
            .env("ROOT", &self.0)
            .env("CARGO", tools.join("cargo"))
            .env("CXX", tools.join("c++"))
            .env("LIBCLANG_PATH", &tools)
            .env("PATH", path)
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    /// The set-up must succeed; whether it did anything.
    fn works(&self) -> bool {
        let output = self.setup(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        !output.stdout.is_empty()
    }

    fn fails(&self, environment: &[(&str, &str)], reason: &str) {
        let output = self.setup(environment);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{error}");
    }
}

#[test]
fn a_finished_set_up_is_not_repeated() {
    let workspace = Workspace::new("finished");
    assert!(workspace.works());
    assert!(!workspace.works());
    workspace.write("plugins/mlx/native/libmlxc/blas.cpp", "// changed\n");
    assert!(workspace.works());
}

#[test]
fn a_set_up_that_stopped_before_its_libraries_were_ready_is_done_again() {
    let workspace = Workspace::new("stopped");
    workspace.fails(&[("RUN_PATH", "/nowhere")], "another run path");
    assert!(workspace.works());
    let library = fs::read(workspace.path("target/mlx/lib/libmlx.so")).unwrap();
    assert!(library.starts_with(b"$ORIGIN\0"), "the library looks for others in a folder that is gone");
}

#[test]
fn a_result_that_was_deleted_or_cut_short_is_made_again() {
    let workspace = Workspace::new("deleted");
    assert!(workspace.works());
    fs::remove_dir_all(workspace.path("target/mlx/lib")).unwrap();
    assert!(workspace.works());
    assert!(workspace.path("target/mlx/lib/libmlx.so").exists());
    fs::remove_file(workspace.path("target/mlx/lib/libblas.so")).unwrap();
    assert!(workspace.works());
    assert!(workspace.path("target/mlx/lib/libblas.so").exists());
    workspace.write("target/mlx/out/bindings.rs", "");
    assert!(workspace.works());
    assert!(!workspace.works());
}

#[test]
fn wheels_stay_until_new_ones_have_come() {
    let workspace = Workspace::new("no-network");
    assert!(workspace.works());
    let wheel = workspace.path("target/mlx/wheels/mlx/mlx.whl");
    assert!(wheel.exists());
    let before = fs::read_to_string(workspace.path("xtask/wheels/mlx.txt")).unwrap();
    workspace.write("xtask/wheels/mlx.txt", "mlx-cpu==1 # and more\n");
    workspace.fails(&[("NO_NETWORK", "1")], "no route to the index");
    assert!(wheel.exists());
    assert!(workspace.path("target/mlx/lib/libmlx.so").exists());
    // Back to the wheels that are there: nothing needs to be fetched.
    workspace.write("xtask/wheels/mlx.txt", &before);
    let output = workspace.setup(&[("NO_NETWORK", "1")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
