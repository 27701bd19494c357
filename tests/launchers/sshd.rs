//! An SSH server of the test's own on this machine, and the hosts `nodea` and `nodeb` that it stands for.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mdt_tests::free_port;
use tempfile::TempDir;

/// A server with keys and a configuration of its own. Dropped, it ends.
pub(super) struct Sshd {
    directory: TempDir,
    server: Child,
}

impl Sshd {
    /// Starts a server that lets the current user in.
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        for key in ["host_key", "user_key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
            assert!(keygen.status().expect("ssh-keygen").success());
        }
        let public = |key: &str| fs::read_to_string(path(&format!("{key}.pub"))).expect("a public key");
        fs::write(path("authorized"), public("user_key")).expect("a file");
        fs::set_permissions(path("authorized"), fs::Permissions::from_mode(0o600)).expect("permissions");
        let port = free_port();
        fs::write(path("known"), format!("[127.0.0.1]:{port} {}", public("host_key"))).expect("a file");
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n",
            path("host_key"),
            path("authorized")
        );
        fs::write(path("sshd_config"), server).expect("a file");
        let client = format!(
            "Host nodea nodeb\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {}\nHost gone\n  HostName 127.0.0.1\n  Port 1\n",
            path("user_key"),
            path("known")
        );
        fs::write(path("ssh_config"), client).expect("a file");
        // The server of root wants this directory, which the system's own service makes when it starts.
        let _ = fs::create_dir("/run/sshd");
        let mut server = Command::new("/usr/sbin/sshd");
        let server = server.args(["-D", "-e", "-f", &path("sshd_config")]).stderr(Stdio::null()).spawn().expect("sshd");
        let sshd = Self { directory, server };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "sshd does not listen");
            sleep(Duration::from_millis(10));
        }
        sshd
    }

    /// The command that reaches its hosts.
    pub(super) fn command(&self) -> String {
        format!("ssh -F {}", self.directory.path().join("ssh_config").display())
    }

    /// A file beside its own.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
