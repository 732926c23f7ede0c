//! Certificates made for a test.

use super::Dir;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Issues certificates.
pub(crate) struct Authority {
    dir: Dir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        let name = &mut params.distinguished_name;
        // Two of one name would be taken for the same, and one's signatures for forged.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        name.push(DnType::CommonName, format!("Test authority {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let dir = Dir::new();
        fs::write(dir.path("ca.pem"), issuer.pem()).expect("a file");
        Self { dir, issuer }
    }

    /// The file of its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path("ca.pem")
    }

    /// Issues a certificate for `name`, a host's or an address.
    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.sign(name, CertificateParams::new([name.into()]).expect("a name"))
    }

    /// Issues one whose time is over.
    pub(crate) fn issue_expired(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new([name.into()]).expect("a name");
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(name, params)
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Identity {
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let issued = Identity {
            cert: self.dir.path(&format!("{name}.pem")),
            key: self.dir.path(&format!("{name}.key")),
        };
        fs::write(&issued.cert, cert.pem()).expect("a file");
        fs::write(&issued.key, key.serialize_pem()).expect("a file");
        issued
    }
}
