//! Modules and deployments in the store.

use super::{
    Agent,
    tasks::{DeploymentRecord, Texts},
};
use crate::{
    engine::{Engine, ModuleId, Text, text},
    module::{
        hex::to_hex,
        table::{Digest, digest},
    },
    store::RECORD_MAX,
    task::budget::Budget,
    time::Instant,
    wire::{List, MonitoringProfile, Pairs},
};
use serde::{Deserialize, Serialize};

/// Of what a record holds behind its module's digest.
const VERSION: u8 = 1;

/// A latent deployment.
#[derive(Serialize, Deserialize)]
struct Record<'r> {
    version: u8,
    id: &'r str,
    name: &'r str,
    inputs: &'r [u8],
    env: &'r [u8],
    profile: MonitoringProfile,
}

impl<'r> Record<'r> {
    fn read(bytes: &'r [u8]) -> Option<(Digest, Self)> {
        let (digest, rest) = bytes.split_first_chunk()?;
        let (record, _) = postcard::take_from_bytes::<Self>(rest).ok()?;
        (record.version == VERSION).then_some((*digest, record))
    }

    fn write(&self, digest: &Digest, to: &mut [u8]) -> Option<usize> {
        let (head, rest) = to.split_first_chunk_mut()?;
        *head = *digest;
        let len = postcard::to_slice(self, rest).ok()?.len();
        Some(digest.len() + len)
    }
}

impl<E: Engine> Agent<'_, E> {
    /// Brings back the latent deployments of the store; once, before the first event. What is damaged
    /// is logged and removed. A deployment whose module can't be loaded is kept, for a restart after
    /// which it can.
    #[inline(never)]
    pub fn restore(&mut self, now: Instant) {
        let mut bytes = [0; RECORD_MAX];
        for index in (0..=u8::MAX).take(self.tasks.deployments_max()) {
            let Some(store) = self.store.as_deref_mut() else {
                return;
            };
            let found = match store.read_record(index, &mut bytes) {
                Ok(None) => continue,
                Ok(Some(len)) => Record::read(&bytes[..len]).ok_or_else(|| {
                    text(format_args!("the record is damaged, or of another version"))
                }),
                Err(reason) => Err(reason),
            };
            let restored =
                found.and_then(|(digest, record)| self.restore_one(index, &digest, &record, now));
            if let Err(reason) = restored {
                log::error!("latent deployment {index} is not restored: {reason}");
                self.tasks.undeploy(index);
                self.forget_deployment(index);
            }
        }
    }

    fn restore_one(
        &mut self,
        index: u8,
        digest: &Digest,
        record: &Record<'_>,
        now: Instant,
    ) -> Result<(), Text> {
        let texts = Texts {
            id: record.id,
            invocation: "",
            name: record.name,
            inputs: List::from_bytes(record.inputs).unwrap_or_default(),
            env: [
                Pairs::from_bytes(record.env).unwrap_or_default(),
                Pairs::EMPTY,
            ],
        };
        DeploymentRecord::<E>::bytes(&texts)?;
        let deployment = match self.deployment_record(&texts, record.profile, now) {
            Ok(deployment) => deployment,
            // As below; the next deployment may take its place in the store.
            Err(reason) => {
                log::error!("latent task {} can't be invoked: {reason}", record.id);
                return Ok(());
            }
        };
        self.tasks.deploy(index, deployment);
        match self.recall(digest, None) {
            Ok(Some(module)) => self.deployed(index, module),
            Ok(None) => Err(text(format_args!(
                "its module is not in the store any more"
            ))),
            // Settings may forbid it that are put right before the next restart.
            Err(reason) => {
                log::error!(
                    "latent task {} can't be invoked: its module is not loaded: {reason}",
                    record.id
                );
                Ok(())
            }
        }
    }

    /// The module with this digest, from the table or the store.
    pub(super) fn recall(
        &mut self,
        digest: &Digest,
        budget: Option<&Budget>,
    ) -> Result<Option<ModuleId>, Text> {
        if let Some(known) = self.table.find(digest) {
            return Ok(Some(known));
        }
        let stored = self.store.as_deref_mut().and_then(|s| s.module_len(digest));
        let Some(len) = stored else {
            return Ok(None);
        };
        self.make_room(len, "the module's bytes")?;
        let mut bytes = self.engine.allocate(len)?;
        if !self.read_module(digest, &mut bytes) {
            return Ok(None);
        }
        self.parse(bytes, *digest, budget).map(Some)
    }

    /// Reads a module and verifies it. One that is damaged is removed.
    fn read_module(&mut self, expected: &Digest, into: &mut [u8]) -> bool {
        let Some(store) = self.store.as_deref_mut() else {
            return false;
        };
        let reason = match store.read_module(expected, into) {
            Ok(()) if digest(into) == *expected => return true,
            Ok(()) => text(format_args!("its bytes have changed")),
            Err(reason) => reason,
        };
        let hex = to_hex(expected);
        log::error!("module sha256:{hex} in the store is damaged: {reason}; it is removed");
        if let Err(reason) = store.remove_module(expected) {
            log::error!("module sha256:{hex} can't be removed: {reason}");
        }
        false
    }

    /// Whether the store has this module, or there is none to have it.
    pub(super) fn is_stored(&mut self, digest: &Digest) -> bool {
        let store = self.store.as_deref_mut();
        store.is_none_or(|store| store.module_len(digest).is_some())
    }

    /// Keeps a module for after a reboot, as far as that is possible.
    pub(super) fn keep_module(&mut self, digest: &Digest, bytes: &E::Buffer) {
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.write_module(digest, bytes)
        {
            log::warn!("module sha256:{} is not stored: {reason}", to_hex(digest));
        }
    }

    /// Removes a module that turned out to be none.
    pub(super) fn forget_module(&mut self, digest: &Digest) {
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.remove_module(digest)
        {
            log::warn!(
                "module sha256:{} stays in the store: {reason}",
                to_hex(digest)
            );
        }
    }

    /// Keeps a deployment for after a reboot, as far as that is possible.
    #[inline(never)]
    pub(super) fn keep_deployment(&mut self, index: u8, module: ModuleId) {
        let Some(digest) = self.table.digest(module) else {
            return;
        };
        let Some(deployment) = self.tasks.deployment(index) else {
            return;
        };
        let record = Record {
            version: VERSION,
            id: deployment.id(),
            name: deployment.name(),
            inputs: deployment.inputs().as_bytes(),
            env: deployment.env().as_bytes(),
            profile: deployment.head().profile,
        };
        let mut bytes = [0; RECORD_MAX];
        let len = record.write(&digest, &mut bytes);
        let Some(store) = self.store.as_deref_mut() else {
            return;
        };
        let written = match len {
            None => Err(text(format_args!(
                "inputs and env make a record of more than {RECORD_MAX} bytes"
            ))),
            Some(_) if store.module_len(&digest).is_none() => {
                Err(text(format_args!("its module is not stored")))
            }
            Some(len) => store.write_record(index, &bytes[..len]),
        };
        if let Err(reason) = written {
            log::warn!(
                "latent task {} will not survive a reboot: {reason}",
                deployment.id()
            );
        }
    }

    /// Removes a deployment from the store.
    pub(super) fn forget_deployment(&mut self, index: u8) {
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.remove_record(index)
        {
            log::error!("latent deployment {index} stays in the store: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            version: VERSION,
            id: "task",
            name: "main",
            inputs: &[1, 0, b'7'],
            env: &[],
            profile: MonitoringProfile::DAEMON,
        };
        let (mut bytes, digest) = ([0; 256], [7; 32]);
        let len = record.write(&digest, &mut bytes).unwrap();
        let (module, back) = Record::read(&bytes[..len]).unwrap();
        assert_eq!(module, digest);
        assert_eq!((back.id, back.name), ("task", "main"));
        assert_eq!((back.inputs, back.env), (record.inputs, record.env));
        assert_eq!(back.profile, record.profile);
        for len in 0..len {
            assert!(Record::read(&bytes[..len]).is_none(), "{len}");
        }
        bytes[32] = VERSION + 1;
        assert!(Record::read(&bytes[..len]).is_none());
        assert_eq!(record.write(&digest, &mut [0; 40]), None);
    }
}
