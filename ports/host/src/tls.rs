//! TLS by rustls, over the non-blocking sockets of [`net`](crate::net).
//!
//! A peer must have a certificate for the name that was dialled, within its dates, signed by a CA of
//! the file that was given, or by one that the system trusts. There is no way around that.

use anyhow::{Context as _, Result, bail};
use rustix::event::PollFlags;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{
    cell::OnceCell,
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files of PEM.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// CAs that are trusted, instead of the system's.
    pub ca: Option<PathBuf>,
    /// A certificate, with those between it and its CA behind it, and its key, for servers that ask
    /// for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Whom this process trusts, and who it is.
#[derive(Debug, Default)]
pub struct Tls {
    files: Files,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    /// By these files, which are read when they are first needed.
    pub const fn new(files: Files) -> Self {
        Self {
            files,
            config: OnceCell::new(),
        }
    }

    /// Configuration of rustls; read once, if it can be read.
    ///
    /// # Errors
    /// If a file can't be read or holds nothing of use, or the system has no CAs.
    pub fn config(&self) -> Result<&Arc<ClientConfig>> {
        if self.config.get().is_none() {
            let config = Arc::new(read(&self.files)?);
            // No other thread can have set it meanwhile: it's not Sync.
            let _ = self.config.set(config);
        }
        self.config.get().context("TLS")
    }

    /// The client's side of a connection to the owner of a certificate for `host`.
    pub(crate) fn session(&self, host: &str) -> io::Result<Session> {
        let invalid =
            |e: &dyn std::fmt::Display| io::Error::new(ErrorKind::InvalidData, e.to_string());
        let config = self.config().map_err(|e| invalid(&format_args!("{e:#}")))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| invalid(&e))?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(|e| explain(&e))?;
        Ok(Session(Box::new(session)))
    }
}

fn read(files: &Files) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for ca in certificates(path)? {
                roots
                    .add(ca)
                    .with_context(|| format!("{}", path.display()))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            for error in &system.errors {
                log::warn!("CA certificates of the system: {error}");
            }
            // Some of the system's may be of a kind that rustls does not know.
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                bail!(
                    "the system has no CA certificates: install some, or give those of your servers by --tls-ca"
                );
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &files.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let own = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("no private key in {}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(cert)?, own)
                .with_context(|| format!("{} and {}", cert.display(), key.display()))?
        }
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let file = || format!("certificates of {}", path.display());
    let all = CertificateDer::pem_file_iter(path).with_context(file)?;
    let all: Vec<_> = all.collect::<Result<_, _>>().with_context(file)?;
    if all.is_empty() {
        bail!("there is no certificate in {}", path.display());
    }
    Ok(all)
}

/// Failure and its remedy, as the error of a socket.
fn explain(error: &rustls::Error) -> io::Error {
    let advice = match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            ": no CA that is trusted here has signed it, give its CA by --tls-ca"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            ": give one by --tls-cert and --tls-key"
        }
        rustls::Error::InvalidMessage(_) => ": check that the port speaks TLS",
        _ => "",
    };
    io::Error::new(ErrorKind::InvalidData, format!("{error}{advice}"))
}

/// The client's side of a connection. Every operation goes on until the socket would block, and then
/// says by `events` what it waits for.
#[derive(Debug)]
pub(crate) struct Session(Box<ClientConnection>);

impl Session {
    /// Shakes hands.
    pub(crate) fn handshake(
        &mut self,
        stream: &TcpStream,
        events: &mut PollFlags,
    ) -> io::Result<()> {
        let ended = |e: io::Error| match e.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                let reason = "the server ended the connection in the handshake: check that the port speaks TLS";
                io::Error::new(ErrorKind::InvalidData, reason)
            }
            _ => e,
        };
        while self.0.is_handshaking() {
            *events = PollFlags::OUT;
            self.push(stream).map_err(ended)?;
            // That may have been the last of the handshake.
            if self.0.is_handshaking() {
                *events = PollFlags::IN;
                self.pull(stream).map_err(ended)?;
            }
        }
        *events = PollFlags::OUT;
        self.push(stream).map_err(ended)
    }

    /// Reads some of what the peer says. An end that it has not announced is an error.
    pub(crate) fn read(
        &mut self,
        stream: &TcpStream,
        events: &mut PollFlags,
        buf: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buf) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            // An error is the reader's to find.
            if self.push(stream).is_err() {
                *events |= PollFlags::OUT;
            }
            if self.0.read_tls(&mut &*stream)? > 0 {
                self.process(stream)?;
            }
        }
    }

    /// Takes something to send, when all from before is sent.
    pub(crate) fn write(&mut self, stream: &TcpStream, buf: &[u8]) -> io::Result<usize> {
        self.flush(stream)?;
        let n = self.0.writer().write(buf)?;
        match self.flush(stream) {
            Err(e) if e.kind() != ErrorKind::WouldBlock => Err(e),
            _ => Ok(n),
        }
    }

    /// Sends what has been taken. Where the peer takes no more, its reason is the error, if it has said one.
    pub(crate) fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        match self.push(stream) {
            Err(e) if e.kind() != ErrorKind::WouldBlock => Err(self.alert(stream).unwrap_or(e)),
            pushed => pushed,
        }
    }

    /// The alert with which the peer has ended the session, if it did.
    fn alert(&mut self, mut stream: &TcpStream) -> Option<io::Error> {
        while self.0.read_tls(&mut stream).ok()? > 0 {
            if let Err(alert) = self.process(stream) {
                return Some(alert);
            }
        }
        None
    }

    fn push(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut stream)?;
        }
        Ok(())
    }

    /// Tells the peer that this is the end, if it takes that at once.
    pub(crate) fn close(&mut self, stream: &TcpStream) {
        self.0.send_close_notify();
        let _ = self.push(stream);
    }

    fn pull(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        match self.0.read_tls(&mut stream)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => self.process(stream),
        }
    }

    fn process(&mut self, stream: &TcpStream) -> io::Result<()> {
        self.0.process_new_packets().map(drop).map_err(|error| {
            // The peer is told why, if it takes that at once.
            let _ = self.push(stream);
            explain(&error)
        })
    }
}
