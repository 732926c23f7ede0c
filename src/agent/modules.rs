//! How a task gets its module: known, stored, inline, in chunks or over HTTP.

use super::{Agent, fits, tasks::Deployed};
use crate::{
    engine::{ArenaUsage, Engine, ModuleId, Text, clip, text},
    module::{
        source::{self, Fetch, Piece, Reference},
        table::{Digest, digest, digest_base64},
    },
    task::budget::Budget,
    time::Instant,
    wire::{Chunk, Scratch, Start, decoded_len},
};

impl<E: Engine> Agent<'_, E> {
    /// Finds a start's module, or begins to fetch it.
    #[inline(never)]
    pub(super) fn source(
        &mut self,
        start: &Start<'_>,
        budget: &Budget,
        now: Instant,
    ) -> Result<Deployed, Text> {
        let image = start.image_url.unwrap_or_default();
        let expected = Reference::parse(image)?.digest;
        let budget = (!start.latent).then_some(budget);
        if let Some(file) = start.file {
            let module = self.inline_module(file, expected.as_ref(), budget)?;
            return Ok(Deployed::Ready { module });
        }
        // What a deployment needs must be in the store, not only in the table.
        if let Some(digest) = &expected
            && (!start.latent || self.is_stored(digest))
            && let Some(module) = self.recall(digest, budget)?
        {
            return Ok(Deployed::Ready { module });
        }
        Ok(Deployed::Fetching {
            fetch: self.fetch(image, now)?,
            until: now + self.config.fetch_timeout,
        })
    }

    /// The module whose bytes are `file` in base64: a known one, or this one, newly parsed. A
    /// deployment has no budget yet.
    #[inline(never)]
    fn inline_module(
        &mut self,
        file: &str,
        expected: Option<&Digest>,
        budget: Option<&Budget>,
    ) -> Result<ModuleId, Text> {
        let bad = |e| text(format_args!("field \"file\": {e}"));
        let digest = digest_base64(file).map_err(bad)?;
        source::check(expected, &digest)?;
        let keep = budget.is_none() && !self.is_stored(&digest);
        if !keep && let Some(known) = self.table.find(&digest) {
            return Ok(known);
        }
        self.evict_for(decoded_len(file).map_err(bad)?);
        let bytes = source::inline(file, self.config.limits.module_bytes, &mut self.engine)?;
        self.take_module(bytes, digest, budget, keep)
    }

    /// Makes a module of its bytes, or finds that it is loaded already. With `keep` it goes to the
    /// store.
    fn take_module(
        &mut self,
        bytes: E::Buffer,
        digest: Digest,
        budget: Option<&Budget>,
        keep: bool,
    ) -> Result<ModuleId, Text> {
        let known = self.table.find(&digest);
        if known.is_none() {
            // Before anything is made of bytes that nobody trusts.
            self.check_signature(&bytes)?;
        }
        if keep {
            // Parsing rewrites the bytes.
            self.keep_module(&digest, &bytes);
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let parsed = self.admit(bytes, digest, budget);
        if parsed.is_err() && keep {
            self.forget_module(&digest);
        }
        parsed
    }

    fn check_signature(&self, bytes: &[u8]) -> Result<(), Text> {
        self.trust
            .as_ref()
            .map_or(Ok(()), |trust| trust.check(bytes))
    }

    /// Parses a module that no loaded one is and that comes from the store.
    pub(super) fn parse(
        &mut self,
        bytes: E::Buffer,
        digest: Digest,
        budget: Option<&Budget>,
    ) -> Result<ModuleId, Text> {
        self.check_signature(&bytes)?;
        self.admit(bytes, digest, budget)
    }

    /// Parses a module. `budget` is that of a run that follows at once.
    #[inline(never)]
    fn admit(
        &mut self,
        bytes: E::Buffer,
        digest: Digest,
        budget: Option<&Budget>,
    ) -> Result<ModuleId, Text> {
        let limits = match budget {
            Some(budget) => budget.limits,
            None => Budget::of_device(&self.config.limits).limits,
        };
        let needs = self.engine.estimate(&bytes, &limits)?;
        if budget.is_some() {
            let bytes = needs.load.saturating_add(needs.instance);
            self.make_room(bytes, "parsing the module and one instance")?;
        } else {
            self.make_room(needs.load, "parsing the module")?;
        }
        let module = self.table.vacant().ok_or_else(|| {
            text(format_args!(
                "the module table is full: all {} entries are in use",
                self.table.capacity()
            ))
        })?;
        self.engine.load(module, bytes)?;
        self.table.loaded_as(module, digest);
        Ok(module)
    }

    /// Refuses what does not fit the arena, even without the modules that nobody waits for.
    pub(super) fn make_room(&mut self, need: usize, what: &str) -> Result<(), Text> {
        self.evict_for(need);
        fits(need, self.engine.arena().available(), what)
    }

    /// Frees modules on their way that nobody waits for, while `need` bytes do not fit but could.
    pub(super) fn evict_for(&mut self, need: usize) {
        let lacks = |arena: ArenaUsage| need > arena.available() && need <= arena.total;
        while lacks(self.engine.arena()) && self.evict_idle_fetch() {}
    }

    pub(super) fn release(&mut self, module: ModuleId) {
        if self.table.release(module) {
            self.engine.unload(module);
        }
    }

    /// Waits for `image` together with whoever does already, or asks for it.
    fn fetch(&mut self, image: &str, now: Instant) -> Result<u8, Text> {
        let under_way = self
            .fetches
            .iter()
            .position(|f| !f.is_vacant() && f.reference() == image);
        if let Some(index) = under_way {
            // Idle ones are asked for again: what is missing may never have been sent.
            self.fetches[index].request_due |= !self.tasks.has_waiters(index);
            return Ok(index as u8);
        }
        let vacant = |fetches: &[Fetch<E::Buffer>]| fetches.iter().position(Fetch::is_vacant);
        if vacant(self.fetches).is_none() {
            self.evict_idle_fetch();
        }
        let index = vacant(self.fetches).ok_or_else(|| {
            text(format_args!(
                "too many modules on their way: all {} places are taken",
                self.fetches.len()
            ))
        })?;
        self.fetches[index] = Fetch::begin(image, self.config.limits.module_bytes, now)?;
        Ok(index as u8)
    }

    /// Frees the assembly that nobody waits for and that began first; false if there is none.
    fn evict_idle_fetch(&mut self) -> bool {
        let idle = (0..self.fetches.len())
            .filter(|&i| !self.fetches[i].is_vacant() && !self.tasks.has_waiters(i))
            .min_by_key(|&i| self.fetches[i].began());
        if let Some(index) = idle {
            self.drop_fetch(index);
        }
        idle.is_some()
    }

    pub(super) fn drop_fetch(&mut self, index: usize) {
        self.fetches[index] = Fetch::VACANT;
        self.cancel_fetch_exchange(index);
    }

    pub(super) fn chunk_message(&mut self, payload: &[u8], scratch: Scratch<'_>, now: Instant) {
        // Most chunks of a channel are for others: don't read their data.
        if let Some(app) = Chunk::app_name_of(payload)
            && !self.fetches.iter().any(|f| f.takes_chunks_of(app))
        {
            log::trace!("skipped a chunk of {app}");
            return;
        }
        let (app, chunk) = match Chunk::parse(payload, scratch) {
            Ok(chunk) => (Some(chunk.app_name), Ok(chunk)),
            Err(rejected) => (rejected.id, Err(rejected.error)),
        };
        let mut found = false;
        // Two may differ in their digest alone.
        for index in 0..self.fetches.len() {
            if !app.is_some_and(|app| self.fetches[index].takes_chunks_of(app)) {
                continue;
            }
            found = true;
            match &chunk {
                Ok(chunk) => self.chunk(index, chunk, now),
                Err(error) => self.fetch_failed(index, text(format_args!("{error}")), now),
            }
        }
        if let (false, Err(error)) = (found, chunk) {
            log::warn!("chunk refused: {error}");
        }
    }

    fn chunk(&mut self, index: usize, chunk: &Chunk<'_>, now: Instant) {
        let piece = Piece::Chunk(chunk);
        self.evict_for(self.fetches[index].growth(&piece));
        match self.fetches[index].accept(piece, &mut self.engine) {
            Ok(None) => {}
            Ok(Some(bytes)) => self.fetched(index, bytes, now),
            Err(reason) => self.fetch_failed(index, reason, now),
        }
    }

    /// Serves everybody who waits for a module that has come.
    #[inline(never)]
    pub(super) fn fetched(&mut self, index: usize, bytes: E::Buffer, now: Instant) {
        let fetch = core::mem::replace(&mut self.fetches[index], Fetch::VACANT);
        let budget = self
            .tasks
            .next_fetching(index)
            .map(|slot| self.budget(slot));
        let is_deployed = self.tasks.next_deploying(index).is_some();
        let digest = digest(&bytes);
        // Only what is asked for by its digest is looked for in the store.
        let keep = is_deployed || fetch.digest().is_some();
        let module = source::check(fetch.digest(), &digest)
            .and_then(|()| self.take_module(bytes, digest, budget.as_ref(), keep));
        match module {
            Ok(module) => {
                // Holds the module while some of those who wait for it may fail.
                self.table.acquire(module);
                self.serve(index, module, now);
                self.release(module);
            }
            Err(reason) => self.fail_waiters(index, fetch.location(), &reason, now),
        }
    }

    fn serve(&mut self, index: usize, module: ModuleId, now: Instant) {
        while let Some(slot) = self.tasks.next_fetching(index) {
            let budget = self.budget(slot);
            if let Err(reason) = self.launch(slot, module, &budget, now) {
                self.fail(slot, reason, now);
            }
        }
        while let Some(deployment) = self.tasks.next_deploying(index) {
            if let Err(reason) = self.deployed(deployment, module) {
                self.fail_deployment(deployment, reason, now);
            }
        }
    }

    pub(super) fn fetch_failed(&mut self, index: usize, reason: Text, now: Instant) {
        let app: heapless::String<64> =
            heapless::String::try_from(clip(self.fetches[index].location(), 64))
                .unwrap_or_default();
        self.drop_fetch(index);
        self.fail_waiters(index, &app, &reason, now);
    }

    fn fail_waiters(&mut self, index: usize, app: &str, reason: &Text, now: Instant) {
        let reason = text(format_args!("module {}: {reason}", clip(app, 64)));
        while let Some(slot) = self.tasks.next_fetching(index) {
            self.fail(slot, reason.clone(), now);
        }
        while let Some(deployment) = self.tasks.next_deploying(index) {
            self.fail_deployment(deployment, reason.clone(), now);
        }
    }
}
