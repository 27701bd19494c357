//! Certificates for mTLS between ranks: a small authority in a directory, and a certificate for each host.
//!
//! | file | what it is |
//! |---|---|
//! | `DIR/ca.pem`, `DIR/ca.key` | the authority; its key signs the certificates of hosts, and stays where it is |
//! | `DIR/HOST/ca.pem`, `host.pem`, `host.key` | what is copied to a host |
//!
//! The subject of the authority is made of its key, so that later hosts need nothing but the key.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use sha2::{Digest, Sha256};

use crate::checksum::hexadecimal;
use crate::exit::{Failure, Status};

/// How long a certificate of a host is valid by default, and at most, and how long that of an authority is, in days.
pub const DEFAULT_DAYS: u32 = 825;
pub const MOST_DAYS: u32 = 3650;
const AUTHORITY_DAYS: u32 = 7300;

/// Certificates begin to be valid before they are made: the clocks of hosts differ.
const EARLIER: Duration = Duration::from_secs(3600);

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// The names and addresses of one host, which its certificate is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Host(Vec<String>);

impl Host {
    /// Reads `NAME`, `ADDRESS`, or several of one host with commas between them.
    ///
    /// # Errors
    /// One of them is neither a DNS name nor an IP address.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let name = |name: &str| {
            // The scope of an IPv6 address has a meaning on one machine only.
            let name = if name.contains(':') { name.split('%').next().unwrap_or(name) } else { name };
            match name.parse::<IpAddr>() {
                Ok(address) => Ok(address.to_string()),
                Err(_) if DnsName::try_from(name).is_ok() => Ok(name.to_ascii_lowercase()),
                Err(_) => Err(Failure::configuration(format!("{name:?} is neither a host name nor an IP address"))
                    .help("write hosts as `node1`, `10.0.0.1`, or both names of one host as `node1,10.0.0.1`")),
            }
        };
        text.split(',').map(name).collect::<Result<_, _>>().map(Self)
    }

    /// The first of its names, which its directory has too.
    pub fn name(&self) -> &str {
        &self.0[0]
    }

    /// All names and addresses.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// What was made.
pub struct Made {
    /// Whether the authority is new.
    pub authority_is_new: bool,
    /// For each host: its directory, and the last day on which its certificate is valid.
    pub hosts: Vec<(PathBuf, String)>,
}

/// Makes a certificate for each host, with the authority in `directory`, which is made where there is none.
///
/// # Errors
/// A host has a directory there already, or a file cannot be read or written. Nothing is ever overwritten.
pub fn make(directory: &Path, hosts: &[Host], days: u32) -> Result<Made, Failure> {
    for (index, host) in hosts.iter().enumerate() {
        let place = directory.join(host.name());
        if fs::symlink_metadata(&place).is_ok() {
            return Err(Failure::new(Status::Storage, format!("{} has a certificate already", host.name()))
                .at(place.display())
                .help("remove that directory to make another one, or choose another `--out`; nothing was changed"));
        }
        if hosts[..index].iter().any(|earlier| earlier.name() == host.name()) {
            return Err(Failure::configuration(format!("{} is named twice", host.name())));
        }
    }
    create_directory(directory, true)?;
    let (authority, authority_is_new) = Authority::open(directory)?;
    let made = hosts.iter().map(|host| authority.certify(directory, host, days));
    Ok(Made { authority_is_new, hosts: made.collect::<Result<_, _>>()? })
}

/// What signs the certificates of hosts.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// The authority in a directory, and whether it is new.
    fn open(directory: &Path) -> Result<(Self, bool), Failure> {
        let (certificate, key) = (directory.join(CA), directory.join(CA_KEY));
        match (certificate.exists(), key.exists()) {
            (true, true) => Self::read(&certificate, &key).map(|authority| (authority, false)),
            (false, false) => {
                let pair = KeyPair::generate().map_err(|error| impossible(&error))?;
                let params = Self::params(&pair);
                let pem = params.self_signed(&pair).map_err(|error| impossible(&error))?.pem();
                write_new(&key, &pair.serialize_pem(), 0o600)?;
                write_new(&certificate, &pem, 0o644)?;
                Ok((Self { issuer: Issuer::new(params, pair), pem }, true))
            }
            (has_certificate, _) => {
                let (here, missing) = if has_certificate { (CA, CA_KEY) } else { (CA_KEY, CA) };
                Err(Failure::new(Status::Storage, format!("there is {here} and no {missing}"))
                    .at(directory.display())
                    .help(format!("bring {missing} back, or make a new authority with another `--out`")))
            }
        }
    }

    fn read(certificate: &Path, key: &Path) -> Result<Self, Failure> {
        let text = |path: &Path| fs::read_to_string(path).map_err(|error| storage(path, &error));
        let unusable = |path: &Path, why: &str| {
            Failure::new(Status::Storage, why)
                .at(path.display())
                .help("certificates are added to authorities that this command has made; others need their own tools")
        };
        let pair = KeyPair::from_pem(&text(key)?).map_err(|_| unusable(key, "the file has no private key"))?;
        let pem = text(certificate)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|_| unusable(certificate, "the file has no certificate"))?;
        let params = Self::params(&pair);
        let has = |part: &[u8]| der.windows(part.len()).any(|bytes| bytes == part);
        if !has(pair.der_bytes()) || !has(Self::name(&pair).as_bytes()) {
            return Err(unusable(certificate, "the certificate is not that of the key in ca.key"));
        }
        Ok(Self { issuer: Issuer::new(params, pair), pem })
    }

    fn name(pair: &KeyPair) -> String {
        format!("mdt-host authority {}", &hexadecimal(&Sha256::digest(pair.der_bytes()))[..16])
    }

    fn params(pair: &KeyPair) -> CertificateParams {
        let mut params = valid_for(AUTHORITY_DAYS);
        params.distinguished_name = common_name(&Self::name(pair));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// Makes the directory of a host.
    fn certify(&self, directory: &Path, host: &Host, days: u32) -> Result<(PathBuf, String), Failure> {
        let names = CertificateParams::new(host.0.clone()).map_err(|error| impossible(&error))?;
        let mut params = valid_for(days);
        params.subject_alt_names = names.subject_alt_names;
        params.distinguished_name = common_name(host.name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every rank is called by some and calls others.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let pair = KeyPair::generate().map_err(|error| impossible(&error))?;
        let certificate = params.signed_by(&pair, &self.issuer).map_err(|error| impossible(&error))?;
        let place = directory.join(host.name());
        create_directory(&place, false)?;
        write_new(&place.join("host.key"), &pair.serialize_pem(), 0o600)?;
        write_new(&place.join("host.pem"), &certificate.pem(), 0o644)?;
        write_new(&place.join(CA), &self.pem, 0o644)?;
        Ok((place, params.not_after.date().to_string()))
    }
}

/// A certificate for so many days from now.
fn valid_for(days: u32) -> CertificateParams {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let at = |since_1970: Duration| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970.as_secs());
    let mut params = CertificateParams::default();
    params.not_before = at(now.saturating_sub(EARLIER));
    params.not_after = at(now + Duration::from_secs(u64::from(days) * 24 * 3600));
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn create_directory(path: &Path, may_exist: bool) -> Result<(), Failure> {
    match DirBuilder::new().recursive(may_exist).mode(0o700).create(path) {
        Err(error) => Err(storage(path, &error)),
        Ok(()) => Ok(()),
    }
}

/// Writes a file that must not exist yet.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| storage(path, &error))
}

fn storage(path: &Path, error: &io::Error) -> Failure {
    let what = match error.kind() {
        ErrorKind::AlreadyExists => "something is there already, and nothing is overwritten",
        _ => "certificates cannot be read or written",
    };
    Failure::new(Status::Storage, what).at(path.display()).because(error)
}

fn impossible(error: &rcgen::Error) -> Failure {
    Failure::new(Status::Other, "no certificate can be made").because(error)
}
