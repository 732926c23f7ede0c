//! Latent deployments.

use super::{File, Supervisor, run::entry, texts_of, wanted};
use crate::{
    agent::{
        modules::{Obtained, Usage},
        noting::Noting,
        outbox::Body,
        persist::Stored,
        reason::{Reason, Refusal},
        tasks::{Deployed, DeploymentRecord, StopReason, Texts},
    },
    engine::{Engine, ModuleId},
    memory::Purpose,
    module::table::Digest,
    store::RECORD_MAX,
    time::Instant,
    wire::{MonitoringProfile, Start},
};
use core::fmt;

impl<E: Engine> Supervisor<'_, E> {
    #[inline(never)]
    pub(super) fn deploy(
        &mut self,
        start: &Start<'_>,
        file: File<E::Buffer>,
        now: Instant,
    ) -> Result<(), Reason<E::Buffer>> {
        self.check_admission(start.encrypted)?;
        // One of this id that could not be restored is replaced.
        if let Some(index) = self.tasks.find_deployment(start.id) {
            self.tasks.undeploy(index);
            self.modules.remove_record(index);
        }
        let index = self.tasks.vacant_deployment()?;
        self.parse_budget(|key| start.env.get(key))?;
        let record = self.deployment_record(&texts_of(start), start.monitoring_profile, now)?;
        let wanted = wanted(start, file, Usage::Deployment);
        let spare = &mut |lack| self.outbox.free_bytes(lack);
        let obtained = self.modules.obtain(wanted, &mut self.engine, spare)?;
        self.tasks.deploy(index, record);
        match obtained {
            Obtained::Ready(module) => self
                .deployed(index, module)
                .inspect_err(|_| drop(self.tasks.undeploy(index))),
            Obtained::Waiting(fetch) => {
                let until = now + self.config.fetch_timeout;
                let state = Deployed::Fetching { fetch, until };
                self.tasks.set_deployed(index, state);
                Ok(())
            }
        }
    }

    /// Makes a deployment's record, if the arena has room. Its module is next.
    pub(super) fn deployment_record(
        &mut self,
        texts: &Texts<'_>,
        profile: MonitoringProfile,
        received: Instant,
    ) -> Result<DeploymentRecord<E>, Reason<E::Buffer>> {
        let need = DeploymentRecord::<E>::bytes(texts)?;
        self.make_room(need, Purpose::Record)?;
        DeploymentRecord::new(&self.engine, texts, profile, received)
    }

    /// Puts a deployment in force. The use of its module is the deployment's from then on, or is given
    /// back.
    pub(super) fn deployed(
        &mut self,
        index: u8,
        module: ModuleId,
    ) -> Result<(), Reason<E::Buffer>> {
        let Some(deployment) = self.tasks.deployment(index) else {
            self.release(module);
            return Ok(());
        };
        if let Err(reason) = entry(&self.engine, module, deployment.name()) {
            self.release(module);
            return Err(reason);
        }
        self.tasks.set_deployed(index, Deployed::Ready { module });
        self.store_deployment(index, module);
        if let Some(deployment) = self.tasks.deployment(index) {
            log::info!("latent task {} is ready to be invoked", deployment.id());
        }
        Ok(())
    }

    /// Stores a deployment for after a reboot, as far as that is possible.
    #[inline(never)]
    pub(super) fn store_deployment(&mut self, index: u8, module: ModuleId) {
        let Some(deployment) = self.tasks.deployment(index) else {
            return;
        };
        let stored = Stored::of(deployment);
        let write = |digest: &Digest, to: &mut [u8]| stored.write(digest, to);
        let written = self
            .modules
            .write_record::<RECORD_MAX>(index, module, write);
        if let Err(reason) = written {
            log::warn!(
                "latent task {} will not survive a reboot: {reason}",
                deployment.id()
            );
        }
    }

    /// Brings back the latent deployments of the store; once, before the first event. What is damaged
    /// is logged and removed. A deployment whose module can't be loaded is kept, for a restart after
    /// which it can.
    #[inline(never)]
    pub(in crate::agent) fn restore(&mut self, now: Instant) {
        let mut bytes = [0; RECORD_MAX];
        for index in (0..=u8::MAX).take(self.tasks.deployments_max()) {
            match self.modules.read_record(index, &mut bytes) {
                Ok(None) => {}
                Ok(Some(len)) => match Stored::read(&bytes[..len]) {
                    Some((digest, stored)) => self.restore_one(index, &digest, &stored, now),
                    None => self.unrestored(
                        index,
                        format_args!("the record is damaged, or of another version"),
                    ),
                },
                Err(reason) => self.unrestored(index, format_args!("{reason}")),
            }
        }
    }

    /// Removes a deployment that is of no use.
    pub(super) fn unrestored(&mut self, index: u8, reason: fmt::Arguments<'_>) {
        log::error!("latent deployment {index} is not restored: {reason}");
        self.tasks.undeploy(index);
        self.modules.remove_record(index);
    }

    pub(super) fn restore_one(
        &mut self,
        index: u8,
        digest: &Digest,
        stored: &Stored<'_>,
        now: Instant,
    ) {
        let texts = stored.texts();
        if let Err(error) = DeploymentRecord::<E>::bytes(&texts) {
            return self.unrestored(index, format_args!("{error}"));
        }
        match self.deployment_record(&texts, stored.profile, now) {
            Ok(deployment) => self.tasks.deploy(index, deployment),
            // As below; the next deployment may take its place in the store.
            Err(reason) => {
                log::error!("latent task {} can't be invoked: {reason}", texts.id);
                return;
            }
        }
        let recalled =
            self.modules
                .recall(digest, Usage::Deployment, &mut self.engine, &mut |_| false);
        match recalled {
            Ok(Some(module)) => {
                if let Err(reason) = self.deployed(index, module) {
                    self.unrestored(index, format_args!("{reason}"));
                }
            }
            Ok(None) => self.unrestored(
                index,
                format_args!("its module is not in the store any more"),
            ),
            // Settings may forbid it that are put right before the next restart.
            Err(reason) => log::error!(
                "latent task {} can't be invoked: its module is not loaded: {reason}",
                texts.id
            ),
        }
    }

    #[inline(never)]
    pub(super) fn undeploy(&mut self, index: u8, now: Instant) {
        while let Some(slot) = self.tasks.detach_invocation(index) {
            self.stop_task(slot, StopReason::Command, now);
        }
        let Some(deployment) = self.tasks.undeploy(index) else {
            return;
        };
        log::info!("latent task {} stopped", deployment.id());
        self.modules.remove_record(index);
        match deployment.state() {
            Deployed::Ready { module } => self.release(module),
            Deployed::Fetching { fetch, .. } => self.modules.leave(fetch),
            Deployed::WithoutModule | Deployed::Failed => {}
        }
        let due = self.due(deployment.head().received, now);
        let body = Body::Results {
            outcome: Err(Refusal::Stopped.into()),
            stopped: true,
            noting: Noting::NEVER,
        };
        self.outbox.answer(deployment.id(), body, due);
    }
}
