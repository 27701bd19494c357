//! Certificates for tests, good and bad ones.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use mdt_grpc::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A second, a day.
const DAY: i64 = 24 * 3600;

/// What signs certificates, and where they lie.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one; its files have the test's name.
    pub fn new(test: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, test);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { directory, issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names, valid for a day.
    pub fn host(&self, name: &str, names: &[&str]) -> TlsFiles {
        self.host_valid(name, names, [-1, 1])
    }

    /// A certificate that is valid between these two days, counted from now.
    pub fn host_valid(&self, name: &str, names: &[&str], days: [i64; 2]) -> TlsFiles {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        [params.not_before, params.not_after] = days.map(|day| {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let seconds = now.checked_add_signed(day * DAY).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        });
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let write = |kind: &str, text: &str| {
            let path = self.directory.join(format!("{name}.{kind}"));
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        TlsFiles {
            ca: write("ca", &self.pem),
            cert: write("pem", &certificate),
            key: write("key", &key.serialize_pem()),
        }
    }
}
