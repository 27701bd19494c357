//! TLS with certificates of both sides, for connections that leave the machine.
//!
//! Every rank has a certificate of the job's authority (`comm.tls`), and both sides of a connection check that of the
//! other. The side that calls also checks that it has reached the host that it meant: the certificate must have the
//! name or address by which it was called, which is `comm.address` for rank 0 and what a rank has told the others
//! (`comm.advertise`, else its address) for the rest. The side that is called cannot know from where it is called, and
//! checks the authority, the dates and the purpose. The handshake with the job token follows inside of the encrypted
//! stream: a certificate alone opens nothing.
//!
//! Only TLS 1.3 is spoken, and no session is resumed, so that every connection is checked in full.

use std::io;
use std::sync::Arc;

use mdt_plugin_api::{Error, Result};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::handshake::NotARank;
use crate::{TlsFiles, private_file};

/// What to do about certificates that are missing or cannot be used.
const MAKE: &str = "make certificates for all hosts with `mdt-host certs new`";

/// Both sides of TLS, with this rank's certificate.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    /// The same for generic clients.
    client_acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the certificates, and checks this rank's own before another rank has to.
    ///
    /// # Errors
    /// A file cannot be read or is open to others; the key is not that of the certificate; the certificate is not of the
    /// authority, or not valid now.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self> {
        let TlsFiles { ca, cert, key } = files;
        for (name, path) in [("ca", ca), ("cert", cert), ("key", key)] {
            if path.is_empty() {
                let all = "`comm.tls` needs `ca`, `cert` and `key`, and `comm.tls.";
                let error = Error::config(format!("{all}{name}` is missing"));
                return Err(error.with("key", format!("comm.tls.{name}")).help(MAKE));
            }
        }
        let authorities = certificates("comm.tls.ca", ca)?;
        let chain = certificates("comm.tls.cert", cert)?;
        let secret = private_file::read("comm.tls.key", key, MAKE)?;
        let secret = PrivateKeyDer::from_pem_slice(&secret)
            .map_err(|error| not_pem("comm.tls.key", key, "private key", &error))?;

        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| {
                Error::config(format!("comm.tls.ca: {ca} has a certificate that cannot be used"))
                    .with("key", "comm.tls.ca")
                    .caused_by(error)
            })?;
        }
        require_pair(&provider, &chain, &secret, files)?;
        require_valid(&provider, &chain, &roots, files)?;

        let roots = Arc::new(roots);
        let unusable = |error: &dyn std::fmt::Display| {
            Error::config(format!("comm.tls: the certificates cannot be used: {error}")).with("key", "comm.tls")
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| unusable(&error))?;
        let versions = [&TLS13];
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), secret.clone_key())
            .map_err(|error| unusable(&error))?;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, secret)
            .map_err(|error| unusable(&error))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut for_clients = server.clone();
        for_clients.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
            client_acceptor: Arc::new(for_clients).into(),
        })
    }

    /// Begins TLS with the host of this name or address, which was dialled.
    ///
    /// # Errors
    /// The other side has no certificate of the job's authority for this host, or does not speak TLS.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        host: ServerName<'static>,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(host, stream).await.map(TlsStream::Client)
    }

    /// Begins TLS with a process that has dialled.
    ///
    /// # Errors
    /// The other side has no certificate of the job's authority, or does not speak TLS. The stream is given back.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, (io::Error, TcpStream)> {
        self.acceptor.accept(stream).into_fallible().await.map(TlsStream::Server)
    }

    /// Begins TLS with a generic client, which speaks HTTP/2 and says so.
    ///
    /// # Errors
    /// As [`Tls::accept`].
    pub(crate) async fn accept_client(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.client_acceptor.accept(stream).await.map(TlsStream::Server)
    }
}

fn certificates(key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let text = private_file::read_public(key, path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(not_pem(key, path, "certificate", &pem::Error::NoItemsFound)),
        Err(error) => Err(not_pem(key, path, "certificate", &error)),
    }
}

fn not_pem(key: &str, path: &str, what: &str, error: &pem::Error) -> Error {
    Error::config(format!("{key}: {path} has no {what} in the PEM format")).with("key", key).help(MAKE).caused_by(error)
}

/// Checks that the key is that of the certificate.
fn require_pair(
    provider: &CryptoProvider,
    chain: &[CertificateDer<'static>],
    secret: &PrivateKeyDer<'static>,
    files: &TlsFiles,
) -> Result<()> {
    let TlsFiles { cert, key, .. } = files;
    let unusable = |error| {
        Error::config(format!("comm.tls.key: {key} has a key that cannot be used"))
            .with("key", "comm.tls.key")
            .caused_by(error)
    };
    let signer = provider.key_provider.load_private_key(secret.clone_key()).map_err(unusable)?;
    match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(Error::config(format!("comm.tls.key: the key in {key} is not that of the certificate in {cert}"))
                .with("key", "comm.tls.key")
                .help("`mdt-host certs new` makes both in one directory: copy them together"))
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Checks that other ranks will accept this rank's certificate, but for its names.
fn require_valid(
    provider: &CryptoProvider,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    TlsFiles { ca, cert, .. }: &TlsFiles,
) -> Result<()> {
    let valid = ParsedCertificate::try_from(&chain[0]).and_then(|certificate| {
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, &chain[1..], UnixTime::now(), algorithms)
    });
    valid.map_err(|error| {
        let why = match &error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                format!("is not of the authority in {ca}")
            }
            error => objection(error),
        };
        Error::config(format!("comm.tls.cert: the certificate in {cert} {why}")).with("key", "comm.tls.cert").help(MAKE)
    })
}

/// What is wrong with the certificate of another rank, or with what it thinks of this rank's, for the side that dialled.
/// `None` where it may be neither, and another attempt may succeed.
pub(crate) fn refusal(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(match alert {
            AlertDescription::CertificateRequired => "it demands a certificate".to_owned(),
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it refuses the certificate of this rank: another authority".to_owned()
            }
            AlertDescription::CertificateExpired => "it refuses the certificate of this rank: not valid now".to_owned(),
            other => format!("it refuses the connection ({other:?})"),
        }),
        error @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Some(format!("its certificate {}", objection(error)))
        }
        _ => None,
    }
}

/// Whether the other side speaks TLS, where this side does not.
pub(crate) fn is_spoken(error: &io::Error) -> bool {
    let not_a_rank = error.get_ref().and_then(|error| error.downcast_ref::<NotARank>());
    not_a_rank.is_some_and(|other| other.speaks_tls)
}

/// What is wrong with a certificate, as the end of a sentence about it.
pub(crate) fn objection(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(error) = error else {
        return format!("cannot be used: {error}");
    };
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not of the authority in comm.tls.ca".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("has expired: it was valid until {}", date(*not_after))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("is not valid yet: it will be from {}, and the clock here says {}", date(*not_before), date(*time))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("is not for {}, but for {}", expected.to_str(), names(presented))
        }
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            "is not for both sides of a connection (serverAuth and clientAuth)".to_owned()
        }
        other => format!("cannot be used: {other}"),
    }
}

/// The names of a certificate, without the words by which the library tells their kinds.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    match presented {
        [] => "no name".to_owned(),
        names => names.iter().map(plain).collect::<Vec<_>>().join(", "),
    }
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    seconds.map_or_else(|| format!("second {} since 1970", time.as_secs()), |time| time.to_string())
}
