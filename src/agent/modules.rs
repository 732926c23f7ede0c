//! How a task gets its module: known, inline or in chunks.

use super::{Agent, bounded, fits, records::Phase};
use crate::{
    engine::{Engine, Limits, ModuleId, Schedule, Text, clip, text},
    module::{
        assembly::Assembly,
        table::{Digest, digest, digest_base64},
    },
    task::budget::Budget,
    time::Instant,
    wire::{Chunk, Scratch, Start, decode_into, decoded_len},
};

impl<E: Engine> Agent<'_, E> {
    /// Finds a start's module, or begins to fetch it.
    pub(super) fn source(
        &mut self,
        start: &Start<'_>,
        budget: &Budget,
        now: Instant,
    ) -> Result<Phase, Text> {
        if let Some(file) = start.file {
            let budget = (!start.latent).then_some(budget);
            let module = self.inline_module(file, budget)?;
            return Ok(Phase::Ready { module });
        }
        let image = start.image_url.unwrap_or_default();
        if image.starts_with("http://") || image.starts_with("https://") {
            return Err(text(format_args!(
                "image_url {}: this proplet fetches from the registry only, not over HTTP",
                clip(image, 64)
            )));
        }
        Ok(Phase::Fetching {
            assembly: self.fetch(image, now)?,
            until: now + self.config.fetch_timeout,
        })
    }

    /// The module whose bytes are `file` in base64: a known one, or this one, newly parsed.
    fn inline_module(&mut self, file: &str, budget: Option<&Budget>) -> Result<ModuleId, Text> {
        let bad = |e| text(format_args!("field \"file\": {e}"));
        let digest = digest_base64(file).map_err(bad)?;
        if let Some(known) = self.table.find(&digest) {
            return Ok(known);
        }
        let len = decoded_len(file).map_err(bad)?;
        self.make_room(len, "the module's bytes")?;
        let module = self.reserve()?;
        let copied = self
            .engine
            .reserve(module, len)
            .and_then(|()| decode_into(file, &mut self.engine.buffer(module)[..len]).map_err(bad));
        if let Err(reason) = copied {
            self.abandon(module);
            return Err(reason);
        }
        self.parse(module, len, digest, budget)
    }

    fn reserve(&mut self) -> Result<ModuleId, Text> {
        if let Some(module) = self.table.reserve() {
            return Ok(module);
        }
        self.evict_idle_fetch();
        self.table.reserve().ok_or_else(|| {
            text(format_args!(
                "the module table is full: all {} entries are in use",
                self.table.capacity()
            ))
        })
    }

    fn abandon(&mut self, module: ModuleId) {
        self.engine.unload(module);
        self.table.cancel(module);
    }

    /// Makes a module of the bytes in a reserved buffer, or finds that it is loaded already.
    fn load(
        &mut self,
        module: ModuleId,
        len: usize,
        budget: Option<&Budget>,
    ) -> Result<ModuleId, Text> {
        let digest = digest(&self.engine.buffer(module)[..len]);
        if let Some(known) = self.table.find(&digest) {
            self.abandon(module);
            return Ok(known);
        }
        self.parse(module, len, digest, budget)
    }

    /// Parses the bytes in a reserved buffer, which no loaded module has. `budget` is that of a run
    /// that follows at once.
    fn parse(
        &mut self,
        module: ModuleId,
        len: usize,
        digest: Digest,
        budget: Option<&Budget>,
    ) -> Result<ModuleId, Text> {
        if let Err(reason) = self.admit(module, len, budget) {
            self.abandon(module);
            return Err(reason);
        }
        self.table.loaded_as(module, digest);
        Ok(module)
    }

    fn admit(&mut self, module: ModuleId, len: usize, budget: Option<&Budget>) -> Result<(), Text> {
        let limits = budget.map_or(self.device_limits(), |budget| budget.limits);
        let needs = self.engine.estimate(module, len, &limits)?;
        if budget.is_some() {
            let bytes = needs.load.saturating_add(needs.instance);
            self.make_room(bytes, "parsing the module and one instance")?;
        } else {
            self.make_room(needs.load, "parsing the module")?;
        }
        self.engine.load(module, len)
    }

    fn device_limits(&self) -> Limits {
        let device = &self.config.limits;
        Limits {
            stack: device.stack,
            memory_cap: None,
            memory_max: device.memory,
            work: device.work,
            schedule: Schedule::DEFAULT,
        }
    }

    /// Refuses what does not fit the arena, even without the modules that nobody waits for.
    fn make_room(&mut self, need: usize, what: &str) -> Result<(), Text> {
        while need > self.engine.arena().free && self.evict_idle_fetch() {}
        fits(need, self.engine.arena().free, what)
    }

    pub(super) fn release(&mut self, module: ModuleId) {
        if self.table.release(module) {
            self.engine.unload(module);
        }
    }

    /// Waits for `image` together with whoever does already, or asks the registry for it.
    fn fetch(&mut self, image: &str, now: Instant) -> Result<u8, Text> {
        if let Some(index) = self.fetch_of(image) {
            // Idle ones are asked for again: what is missing may never have been sent.
            self.fetches[index].request_due |= !self.has_waiters(index);
            return Ok(index as u8);
        }
        if self.fetches.iter().all(|f| f.module().is_some()) {
            self.evict_idle_fetch();
        }
        let index = self
            .fetches
            .iter()
            .position(|f| f.module().is_none())
            .ok_or_else(|| {
                text(format_args!(
                    "too many modules on their way: all {} assemblies are taken",
                    self.fetches.len()
                ))
            })?;
        let module = self.reserve()?;
        match Assembly::begin(image, module, now) {
            Ok(assembly) => {
                self.fetches[index] = assembly;
                Ok(index as u8)
            }
            Err(reason) => {
                self.table.cancel(module);
                Err(reason)
            }
        }
    }

    pub(super) fn has_waiters(&self, index: usize) -> bool {
        self.runs.iter().any(|run| run.phase.waits_for(index))
            || self.deployments.iter().any(|d| d.phase.waits_for(index))
    }

    /// Frees the assembly that nobody waits for and that began first; false if there is none.
    fn evict_idle_fetch(&mut self) -> bool {
        let idle = (0..self.fetches.len())
            .filter(|&i| self.fetches[i].module().is_some() && !self.has_waiters(i))
            .min_by_key(|&i| self.fetches[i].began());
        if let Some(index) = idle {
            self.drop_fetch(index);
        }
        idle.is_some()
    }

    pub(super) fn drop_fetch(&mut self, index: usize) {
        let fetch = core::mem::replace(&mut self.fetches[index], Assembly::VACANT);
        if let Some(module) = fetch.module() {
            self.abandon(module);
        }
    }

    pub(super) fn chunk_message(&mut self, payload: &[u8], scratch: Scratch<'_>, now: Instant) {
        // Most chunks of a channel are for others: don't read their data.
        if let Some(app) = Chunk::app_name_of(payload)
            && self.fetch_of(app).is_none()
        {
            log::trace!("skipped a chunk of {app}");
            return;
        }
        match Chunk::parse(payload, scratch) {
            Ok(chunk) => {
                if let Some(index) = self.fetch_of(chunk.app_name) {
                    self.chunk(index, &chunk, now);
                }
            }
            Err(rejected) => match rejected.id.and_then(|app| self.fetch_of(app)) {
                Some(index) => {
                    self.fetch_failed(index, text(format_args!("{}", rejected.error)), now)
                }
                None => log::warn!("chunk refused: {}", rejected.error),
            },
        }
    }

    fn fetch_of(&self, app: &str) -> Option<usize> {
        self.fetches
            .iter()
            .position(|f| f.module().is_some() && f.app() == app)
    }

    fn chunk(&mut self, index: usize, chunk: &Chunk<'_>, now: Instant) {
        match self.fetches[index].accept(chunk, &mut self.engine) {
            Ok(None) => {}
            Ok(Some(len)) => self.fetched(index, len, now),
            Err(reason) => self.fetch_failed(index, reason, now),
        }
    }

    /// Serves everybody who waits for an assembly that is complete.
    fn fetched(&mut self, index: usize, len: usize, now: Instant) {
        let fetch = core::mem::replace(&mut self.fetches[index], Assembly::VACANT);
        let Some(module) = fetch.module() else { return };
        let mut runs = self.runs.iter().filter(|run| run.phase.waits_for(index));
        let budget = runs.next().map(|run| run.budget);
        match self.load(module, len, budget.as_ref()) {
            Ok(module) => {
                // Holds the module while some of those who wait for it may fail.
                self.table.acquire(module);
                self.serve(index, module, now);
                self.release(module);
            }
            Err(reason) => self.fail_waiters(index, fetch.app(), &reason, now),
        }
    }

    fn serve(&mut self, index: usize, module: ModuleId, now: Instant) {
        for slot in self.slots() {
            if self.run(slot).phase.waits_for(index)
                && let Err(reason) = self.launch(slot, module, now)
            {
                self.fail(slot, reason, now);
            }
        }
        for d in 0..self.deployments.len() {
            if self.deployments[d].phase.waits_for(index)
                && let Err(reason) = self.deployed(d as u8, module)
            {
                self.fail_deployment(d, reason, now);
            }
        }
    }

    fn fetch_failed(&mut self, index: usize, reason: Text, now: Instant) {
        let app: heapless::String<64> =
            bounded(clip(self.fetches[index].app(), 64)).unwrap_or_default();
        self.drop_fetch(index);
        self.fail_waiters(index, &app, &reason, now);
    }

    fn fail_waiters(&mut self, index: usize, app: &str, reason: &Text, now: Instant) {
        let reason = text(format_args!("module {}: {reason}", clip(app, 64)));
        for slot in self.slots() {
            if self.run(slot).phase.waits_for(index) {
                self.fail(slot, reason.clone(), now);
            }
        }
        for d in 0..self.deployments.len() {
            if self.deployments[d].phase.waits_for(index) {
                self.fail_deployment(d, reason.clone(), now);
            }
        }
    }
}
