//! Stored form of latent deployments.

use super::tasks::{DeploymentRecord, Texts};
use crate::{
    engine::Engine,
    module::table::Digest,
    wire::{List, MonitoringProfile, Pairs},
};
use serde::{Deserialize, Serialize};

/// Version of the form behind the module's digest.
const VERSION: u8 = 1;

/// A latent deployment, behind the digest of its module.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored<'r> {
    version: u8,
    id: &'r str,
    name: &'r str,
    inputs: &'r [u8],
    env: &'r [u8],
    pub(super) profile: MonitoringProfile,
}

impl<'r> Stored<'r> {
    pub(super) fn of<E: Engine>(deployment: &'r DeploymentRecord<E>) -> Self {
        Self {
            version: VERSION,
            id: deployment.id(),
            name: deployment.name(),
            inputs: deployment.inputs().as_bytes(),
            env: deployment.env().as_bytes(),
            profile: deployment.head().profile,
        }
    }

    /// `None` if the record is damaged, or of another version.
    pub(super) fn read(bytes: &'r [u8]) -> Option<(Digest, Self)> {
        let (digest, rest) = bytes.split_first_chunk()?;
        let (record, _) = postcard::take_from_bytes::<Self>(rest).ok()?;
        (record.version == VERSION).then_some((*digest, record))
    }

    /// Length of the record in bytes; `None` if it does not fit.
    pub(super) fn write(&self, digest: &Digest, to: &mut [u8]) -> Option<usize> {
        let (head, rest) = to.split_first_chunk_mut()?;
        *head = *digest;
        let len = postcard::to_slice(self, rest).ok()?.len();
        Some(digest.len() + len)
    }

    pub(super) fn texts(&self) -> Texts<'r> {
        Texts {
            id: self.id,
            invocation: "",
            name: self.name,
            inputs: List::from_bytes(self.inputs).unwrap_or_default(),
            env: [
                Pairs::from_bytes(self.env).unwrap_or_default(),
                Pairs::EMPTY,
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Stored {
            version: VERSION,
            id: "task",
            name: "main",
            inputs: &[1, 0, b'7'],
            env: &[],
            profile: MonitoringProfile::DAEMON,
        };
        let (mut bytes, digest) = ([0; 256], [7; 32]);
        let len = record.write(&digest, &mut bytes).unwrap();
        let (module, back) = Stored::read(&bytes[..len]).unwrap();
        assert_eq!(module, digest);
        assert_eq!((back.id, back.name), ("task", "main"));
        assert_eq!((back.inputs, back.env), (record.inputs, record.env));
        assert_eq!(back.profile, record.profile);
        for len in 0..len {
            assert!(Stored::read(&bytes[..len]).is_none(), "{len}");
        }
        bytes[32] = VERSION + 1;
        assert!(Stored::read(&bytes[..len]).is_none());
        assert_eq!(record.write(&digest, &mut [0; 40]), None);
    }
}
